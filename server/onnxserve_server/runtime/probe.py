"""Try a model before it serves: does it load, and do rows that are run together give what they give alone?

Run in a child process, because a bad graph can end the process that loads it (onnxruntime 1.31.1 does so on a
float16 LSTM), and because a declared batch axis proves nothing: exported graphs freeze sizes inside.

    python -m onnxserve_server.runtime.probe PARENT      reads one JSON object a line from stdin, answers each by a line

PARENT is a process id: it ends with that process.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from onnxserve.tensor import STORAGE, STRING, Array, DataType
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.axes import BatchAxes
from onnxserve_server.runtime.session import RunFailed, Session, SessionOptions
from onnxserve_server.spec import TensorSpec

_ROWS = 3
_WARM_UP_BYTES = 64 << 20
_PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h
_FREE_SIZES = (8, 32, 224, 1)  # tried in turn for axes that are free and not the batch axis
_INTEGER_DTYPES = "iub"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether requests may share runs and, where not, why, in a sentence."""

    batchable: bool
    reason: str = ""


class Prober:
    """Keeps one child process that probes models, one at a time; after a crash the next model gets a new child."""

    def __init__(self, timeout: float = 300.0) -> None:
        self._timeout = timeout
        self._child: subprocess.Popen[str] | None = None

    def probe(self, path: Path, options: SessionOptions) -> Verdict:
        """Load and try the model in the child process.

        Raises:
            ConfigurationError: the model cannot be loaded, or took the child process down with it.
        """
        child = self._running_child()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps({"path": str(path), "options": asdict(options)}) + "\n")
            child.stdin.flush()
            answered, _, _ = select.select([child.stdout], [], [], self._timeout)
            if not answered:
                child.kill()
            answer = child.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            status = child.wait(self._timeout)
            self._child = None
            raise ConfigurationError(
                f"{path}: loading it ended the probing process ({_how(status)}); it is not loaded here"
            )
        told = json.loads(answer)
        if "error" in told:
            raise ConfigurationError(told["error"])
        return Verdict(**told)

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.communicate()
            self._child = None

    def __enter__(self) -> "Prober":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running_child(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(  # noqa: S603 - our own module
                [
                    sys.executable,
                    "-P",
                    "-m",
                    __spec__.name if __spec__ else __name__,
                    str(os.getpid()),
                ],  # -P: not from the working directory
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # a Ctrl-C at the terminal is for the server to handle
            )
        return self._child


def examine(session: Session) -> Verdict:
    """Say whether rows that are run together give what they give alone."""
    declared = batch_axis(session.inputs, session.outputs)
    if not declared.batchable:
        return declared
    rng = np.random.default_rng(0)
    failure = ""
    for feeds in _feeds(session.inputs, _ROWS, rng):
        try:
            alone = [_run(session, _row(session, feeds, i)) for i in range(_ROWS)]
        except RunFailed as error:
            failure = str(error)
            continue
        try:
            together = _run(session, feeds)
        except RunFailed as error:
            return Verdict(False, f"it runs with 1 row but not with {_ROWS}: {error}")
        return _compare(session.outputs, together, alone)
    return Verdict(False, f"the probe found no input that it runs on: {failure}")


def warm_up(session: Session, most_rows: int) -> str:
    """Run a loaded model with one row and with as many as it will get, so that its first caller does not pay for it.

    Return what the last trial failed with where none of them ran; "" where one did.
    """
    failure = ""
    for feeds in _feeds(session.inputs, 1, np.random.default_rng(0)):
        try:
            _run(session, feeds)
            row = max(1, sum(array.nbytes for array in feeds.values()))
            most_rows = min(most_rows, _WARM_UP_BYTES // row)
            if most_rows > 1:
                _run(session, {spec.name: _repeated(spec, feeds[spec.name], most_rows) for spec in session.inputs})
        except RunFailed as error:
            failure = str(error)
            continue
        return ""
    return failure


def batch_axis(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Verdict:
    """Say whether the batch axis of every output and of every input that has one is free, the inputs' by one name."""
    if not inputs:
        return Verdict(False, "it has no inputs")
    with_rows = [spec for spec in inputs if spec.batch_axis is not None]
    names = {size for spec in with_rows if isinstance(size := _batch_size(spec), str)}
    for kind, specs in (("input", with_rows), ("output", outputs)):
        for spec in specs:
            size = _batch_size(spec)
            if size is None:
                told = f"{kind} {spec.name} is a scalar: it has no batch axis"
            elif isinstance(size, int):
                told = f"the first axis of {kind} {spec.name} has the fixed size {size}"
            else:
                continue
            return Verdict(False, told + _cure(kind, spec, names))
    if len(names) > 1:
        return Verdict(
            False, f"the batch axes of its inputs have different names: {', '.join(sorted(map(repr, names)))}"
        )
    return Verdict(True)


def _batch_size(spec: TensorSpec) -> int | str | None:
    """Return the size or name of the batch axis; None for a scalar."""
    return spec.shape[spec.batch_axis or 0] if spec.shape else None


def _cure(kind: str, spec: TensorSpec, names: set[str]) -> str:
    """Return, in brackets, what model.yaml could say of a tensor without a free first axis; "" for nothing.

    `names` are those of the batch axes of the model's inputs; without any there would be nothing to batch.
    """
    cures = []
    if (axis := next((axis for axis, size in enumerate(spec.shape) if size in names), None)) is not None:
        cures.append(_along(spec.name, axis))
    if kind == "input" and names:
        cures.append(f"`shared: [{spec.name}]` if it is the same for all rows")
    return f" (model.yaml may say {' or '.join(cures)})" if cures else ""


def _along(name: str, axis: int) -> str:
    return f"`batch_axis: {{{name}: {axis}}}` if its rows lie along axis {axis}"


def _row(session: Session, feeds: dict[str, Array], i: int) -> dict[str, Array]:
    return {spec.name: spec.cut(feeds[spec.name], i, i + 1) for spec in session.inputs}


def _repeated(spec: TensorSpec, array: Array, times: int) -> Array:
    return array if spec.batch_axis is None else np.repeat(array, times, spec.batch_axis)


def _feeds(inputs: tuple[TensorSpec, ...], rows: int, rng: np.random.Generator) -> Iterator[dict[str, Array]]:
    """Give inputs to try, the most telling first: several sizes of the free axes, small integers before zeros."""
    has_free_axes = any(spec.has_free_axes for spec in inputs)
    for size, ones in product(_FREE_SIZES if has_free_axes else (1,), (True, False)):
        if ones or any(_is_integer(spec) for spec in inputs):
            yield {spec.name: _sample(spec, rows, size, ones, rng) for spec in inputs}


def _is_integer(spec: TensorSpec) -> bool:
    return spec.data_type != STRING and STORAGE[spec.data_type].kind in _INTEGER_DTYPES


def _sample(spec: TensorSpec, rows: int, free: int, ones: bool, rng: np.random.Generator) -> Array:
    shape = tuple(
        size if isinstance(size, int) else rows if axis == spec.batch_axis else free
        for axis, size in enumerate(spec.shape)
    )
    if spec.data_type == STRING:
        return rng.choice(np.array(["a", "b", "c"], dtype=object), shape)
    dtype = STORAGE[spec.data_type]
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if spec.data_type >= DataType.DATA_TYPE_BFLOAT16:
        return _foreign_ones(spec.data_type, shape, rng)
    return rng.integers(0, 2 if ones else 1, shape).astype(dtype)


def _foreign_ones(number: DataType, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return bit patterns of 0 and of a positive number for a type that numpy has not."""
    return (rng.integers(0, 2, shape) * (0x3F80 if number == DataType.DATA_TYPE_BFLOAT16 else 0x38)).astype(
        STORAGE[number]
    )


def _run(session: Session, feeds: dict[str, Array]) -> dict[str, Array]:
    names = [spec.name for spec in session.outputs]
    return dict(zip(names, session.run(feeds, names), strict=True))


def _compare(outputs: tuple[TensorSpec, ...], together: Mapping[str, Array], alone: list[dict[str, Array]]) -> Verdict:
    for spec in outputs:
        rows, axis = together[spec.name], spec.batch_axis or 0
        if rows.shape[axis : axis + 1] != (_ROWS,):
            told = f"with {_ROWS} rows its output {spec.name} has the shape {list(rows.shape)}"
            if _ROWS in rows.shape:
                told += f" (model.yaml may say {_along(spec.name, rows.shape.index(_ROWS))})"
            return Verdict(False, told)
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


def _how(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def _answer(line: str) -> dict[str, Any]:
    asked = json.loads(line)
    options = asked["options"] | {"axes": BatchAxes(**asked["options"]["axes"])}
    try:
        verdict = examine(Session(Path(asked["path"]), SessionOptions(**options)))
    except ConfigurationError as error:
        return {"error": str(error)}
    return asdict(verdict)


def _main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a model that hangs must not outlive the server
    if os.getppid() != int(sys.argv[1]):  # nor if that ended before this line
        return
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ONNX Runtime prints some warnings to stdout
    for line in sys.stdin:
        answers.write(json.dumps(_answer(line)) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main()
