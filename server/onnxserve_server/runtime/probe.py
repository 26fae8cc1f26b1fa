"""Try a model before it serves: does it load, and do rows that run together give the same outputs as each row alone?

This module runs in a child process (see prober.py), because a bad graph can crash the process that loads it
(onnxruntime 1.31.1 crashes on a float16 LSTM). A model is tried because a declared batch axis proves nothing: exported
graphs freeze sizes inside.

    python -m onnxserve_server.runtime.probe PARENT      reads requests from stdin and replies, one line of JSON each

PARENT is a process id: the child ends with that process.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.axes import BatchAxes
from onnxserve_server.runtime.samples import run_sample, samples
from onnxserve_server.runtime.session import RunFailed, Session, SessionOptions
from onnxserve_server.spec import TensorSpec

_ROWS = 3
_PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether requests may share runs; if not, `reason` is a sentence that says why."""

    batchable: bool
    reason: str = ""


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


def check_batch_axes(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Verdict:
    """Judge by the declared shapes alone: the batch axes of all outputs and of all inputs but shared ones must be free.

    Those of the inputs must have one name, too.
    """
    if not inputs:
        return Verdict(False, "it has no inputs")
    with_rows = [spec for spec in inputs if spec.batch_axis is not None]
    names = {size for spec in with_rows if isinstance(size := _batch_size(spec), str)}
    for kind, specs in (("input", with_rows), ("output", outputs)):
        for spec in specs:
            if reason := _fault_of(kind, spec):
                return Verdict(False, reason + _cure(kind, spec, names))
    if len(names) > 1:
        return Verdict(
            False, f"the batch axes of its inputs have different names: {', '.join(sorted(map(repr, names)))}"
        )
    return Verdict(True)


def _fault_of(kind: str, spec: TensorSpec) -> str:
    if spec.any_shape and kind == "input":
        return f"the model declares no shape for input {spec.name}; export it with one"
    size = _batch_size(spec)
    if spec.any_shape and size is None:
        return f"the model declares no shape for output {spec.name}{_advice([_along(spec.name, 0)])}"
    if size is None:
        return f"{kind} {spec.name} is a scalar: it has no batch axis"
    return f"the first axis of {kind} {spec.name} has the fixed size {size}" if isinstance(size, int) else ""


def _batch_size(spec: TensorSpec) -> int | str | None:
    """Return the size or name of the batch axis; None for a scalar."""
    if spec.any_shape and spec.batch_axis is not None:  # as the configuration says
        return ""
    return spec.shape[spec.batch_axis or 0] if spec.shape else None


def _cure(kind: str, spec: TensorSpec, names: set[str]) -> str:
    """Return, in brackets, how a tensor without a free first axis could be configured; "" if there is no way.

    `names` are those of the batch axes of the model's inputs; without any there would be nothing to batch.
    """
    settings = []
    if (axis := next((axis for axis, size in enumerate(spec.shape) if size in names), None)) is not None:
        settings.append(_along(spec.name, axis))
    if kind == "input" and names:
        settings.append(f"`shared: [{spec.name}]` if it is the same for all rows")
    return _advice(settings) if settings else ""


def _along(name: str, axis: int) -> str:
    return f"`batch_axis: {{{name}: {axis}}}` if its rows lie along axis {axis}"


def _advice(settings: list[str]) -> str:
    return f" (in its configuration set {' or '.join(settings)})"


def _row(session: Session, feeds: dict[str, Array], i: int) -> dict[str, Array]:
    return {spec.name: spec.cut(feeds[spec.name], i, i + 1) for spec in session.inputs}


def _compare(outputs: tuple[TensorSpec, ...], together: Mapping[str, Array], alone: list[dict[str, Array]]) -> Verdict:
    for spec in outputs:
        rows, axis = together[spec.name], spec.batch_axis or 0
        if rows.shape[axis : axis + 1] != (_ROWS,):
            reason = f"with {_ROWS} rows its output {spec.name} has the shape {list(rows.shape)}"
            advice = _advice([_along(spec.name, rows.shape.index(_ROWS))]) if _ROWS in rows.shape else ""
            return Verdict(False, reason + advice)
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


def _reply(line: str) -> dict[str, Any]:
    request = json.loads(line)
    options = request["options"] | {"axes": BatchAxes(**request["options"]["axes"])}
    try:
        verdict = examine(Session(Path(request["path"]), SessionOptions(**options)))
    except ConfigurationError as error:
        return {"error": str(error)}
    return asdict(verdict)


def _main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a model that hangs must not outlive the server
    if os.getppid() != int(sys.argv[1]):  # nor if that ended before this line
        return
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ONNX Runtime prints some warnings to stdout
    for line in sys.stdin:
        replies.write(json.dumps(_reply(line)) + "\n")
        replies.flush()


if __name__ == "__main__":
    _main()
