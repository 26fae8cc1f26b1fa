"""Try a model before it serves: does it load, and do rows that run together give the same outputs as each row alone?

This module runs in a child process (see prober.py), because a bad graph can crash the process that loads it
(onnxruntime 1.31.1 crashes on a float16 LSTM), and a request the process that runs it. A model is tried because a
declared batch axis proves nothing: exported graphs freeze sizes inside.

    python -m onnxserve_server.runtime.probe PARENT      reads requests from stdin, writes messages, a line of JSON each

PARENT is a process id: the child ends with that process. It names each step before it is done, so that the parent knows
which one was fatal.
"""

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.axes import BatchAxes
from onnxserve_server.runtime.samples import NO_SAMPLE, run_sample, samples, warm_up
from onnxserve_server.runtime.session import RunFailed, RunHandle, Session, SessionOptions
from onnxserve_server.runtime.trials import changed, trials
from onnxserve_server.spec import Condition, InputRule, TensorSpec

LOAD, SAMPLES, TRIAL, ROWS, WARM_UP, END = "load", "samples", "trial", "rows", "warm-up", "end"  # the steps

_ROWS = 3
_TOO_LONG = "it takes longer than --probe-timeout"
_PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether requests may share runs; if not, `reason` is a sentence that says why."""

    batchable: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """What trying a model has shown.

    Attributes:
        verdict: whether requests may share runs.
        rules: what no request may hold.
        warm_up_rows: the rows that the model was warmed up with; 0: it could not be, for `warm_up_failure`.
        untried: why some trials were not made; "" if all were.
    """

    verdict: Verdict
    rules: tuple[InputRule, ...] = ()
    warm_up_rows: int = 0
    warm_up_failure: str = ""
    untried: str = ""


def examine(session: Session) -> Verdict:
    """Run a model with several rows and with each of them alone, and judge whether requests may share runs."""
    declared = check_batch_axes(session.inputs, session.outputs)
    if not declared.batchable:
        return declared
    failure = NO_SAMPLE
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
    size = _batch_size(spec)
    if size is None:
        return f"{kind} {spec.name} is a scalar: it has no batch axis"
    return f"the first axis of {kind} {spec.name} has the fixed size {size}" if isinstance(size, int) else ""


def _batch_size(spec: TensorSpec) -> int | str | None:
    """Return the size or name of the batch axis; None for a scalar."""
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


class _BoundedSession(Session):
    """A session whose runs are stopped when the time for the step at hand is over."""

    def __init__(self, path: Path, options: SessionOptions) -> None:
        super().__init__(path, options)
        self._until = math.inf

    def allow(self, seconds: float) -> None:
        """Start the time for the next runs."""
        self._until = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """What is left of that time; 0 once it is over."""
        return max(0.0, self._until - time.monotonic())

    def run(self, feeds: dict[str, Array], outputs: Sequence[str], handle: RunHandle | None = None) -> list[Array]:
        """See Session.run()."""
        handle = handle or RunHandle()
        timer = threading.Timer(self.seconds_left, handle.stop)
        timer.start()
        try:
            if self.seconds_left:
                return super().run(feeds, outputs, handle)
        except RunFailed:
            if self.seconds_left:
                raise
        finally:
            timer.cancel()
        raise RunFailed(_TOO_LONG)


def _messages(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Load and try a model; yield each step before it is done, and what it gave."""
    options = request["options"] | {"axes": BatchAxes(**request["options"]["axes"])}
    try:
        session = _BoundedSession(Path(request["path"]), SessionOptions(**options))
    except ConfigurationError as error:
        yield {"step": END, "error": str(error)}
        return
    session.allow(request["seconds"])
    if not request["skip_trials"]:
        yield from _try_all(session, request["done"], request["fatal"])
    yield {"step": ROWS}
    verdict = examine(session)
    yield {"step": WARM_UP, "verdict": asdict(verdict)}
    rows = request["max_rows"] if verdict.batchable or request["batched"] else 1
    failure = warm_up(session, rows)
    yield {"step": END, "warm_up": (0 if failure else rows, failure)}


def _try_all(session: _BoundedSession, done: int, fatal: list[Any]) -> Iterator[dict[str, Any]]:
    """Run each trial but the first `done` ones, and those that contain what has been fatal."""
    known = [{Condition(*condition) for condition in trial} for trial in fatal]
    yield {"step": SAMPLES}
    bases = _bases(session)
    with _silent():
        for number, trial in enumerate(trials(session.inputs)):
            if number < done or any(conditions <= set(trial) for conditions in known):
                continue
            if not session.seconds_left:
                yield {"untried": _TOO_LONG}
                return
            yield {"step": TRIAL, "trial": (number, trial)}
            for feeds in bases:
                with contextlib.suppress(RunFailed):
                    run_sample(session, changed(feeds, trial))


def _bases(session: Session) -> list[dict[str, Array]]:
    """Return a sample of one row and one of two, that the model runs on if there are any."""
    bases = []
    for rows in (1, 2):
        feeds: dict[str, Array] = {}
        for feeds in samples(session.inputs, rows):
            try:
                run_sample(session, feeds)
            except RunFailed:
                continue
            break
        if feeds:
            bases.append(feeds)
    return bases


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop what is written to stderr: a trial that ends the process is not for the server's log."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _die_first() -> None:
    """Have the system end this process, not the server, when memory runs out; and leave no core files."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a model that hangs must not outlive the server
    if os.getppid() != int(sys.argv[1]):  # nor if that ended before this line
        return
    _die_first()
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ONNX Runtime prints some warnings to stdout
    for line in sys.stdin:
        for message in _messages(json.loads(line)):
            messages.write(json.dumps(message) + "\n")
            messages.flush()


if __name__ == "__main__":
    _main()
