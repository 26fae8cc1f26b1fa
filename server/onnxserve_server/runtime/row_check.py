"""Try whether rows that run together give the same outputs as each row alone."""

from collections.abc import Mapping

import numpy as np

from onnxserve.tensor import Array
from onnxserve_server.runtime.samples import run_sample, samples
from onnxserve_server.runtime.session import RunFailed, Session
from onnxserve_server.runtime.verdict import Verdict, check_batch_axes, cure_by_axis
from onnxserve_server.spec import TensorSpec

_ROWS = 3


def examine(session: Session) -> Verdict:
    """Run a model with several rows and with each of them alone, and judge whether requests may share runs."""
    declared = check_batch_axes(session.inputs, session.outputs)
    if not declared.batchable:
        return declared
    failure = ""
    for feeds in samples(session.inputs, _ROWS):
        try:
            alone = [run_sample(session, _row(session, feeds, i)) for i in range(_ROWS)]
        except RunFailed as error:
            failure = str(error)
            continue
        try:
            together = run_sample(session, feeds)
        except RunFailed as error:
            return Verdict(False, f"it runs with 1 row but not with {_ROWS}: {error}")
        return _compare(session.outputs, together, alone)
    return Verdict(False, f"the probe found no input that it runs on: {failure}")


def _row(session: Session, feeds: dict[str, Array], i: int) -> dict[str, Array]:
    return {spec.name: spec.cut(feeds[spec.name], i, i + 1) for spec in session.inputs}


def _compare(outputs: tuple[TensorSpec, ...], together: Mapping[str, Array], alone: list[dict[str, Array]]) -> Verdict:
    for spec in outputs:
        rows, axis = together[spec.name], spec.batch_axis or 0
        if rows.shape[axis : axis + 1] != (_ROWS,):
            reason = f"with {_ROWS} rows its output {spec.name} has the shape {list(rows.shape)}"
            cure = cure_by_axis(spec.name, rows.shape.index(_ROWS)) if _ROWS in rows.shape else ""
            return Verdict(False, reason + cure)
        for i, solo in enumerate(alone):
            if not _same(spec.cut(rows, i, i + 1), solo[spec.name]):
                return Verdict(False, f"a row of its output {spec.name} depends on the other rows of its batch")
    return Verdict(True)


def _same(row: Array, solo: Array) -> bool:
    if row.shape != solo.shape:
        return False
    if row.dtype.kind != "f":
        return bool(np.array_equal(row, solo))
    # Kernels round differently at other batch sizes: a hundredfold of that is still far from another row's values.
    tolerance = {2: 1e-2, 4: 1e-3, 8: 1e-6}[row.dtype.itemsize]
    return bool(
        np.allclose(
            row,
            solo,
            rtol=tolerance,
            atol=tolerance * float(np.abs(solo, dtype=np.float64).max(initial=1e-6)),
            equal_nan=True,
        )
    )
