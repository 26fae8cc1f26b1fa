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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxserve.tensor import Array
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.axes import BatchAxes
from onnxserve_server.runtime.row_check import examine
from onnxserve_server.runtime.samples import run_sample, samples, warm_up
from onnxserve_server.runtime.session import RunFailed, RunHandle, Session, SessionOptions
from onnxserve_server.runtime.trials import changed, trials
from onnxserve_server.runtime.verdict import Verdict
from onnxserve_server.spec import Condition, InputRule

LOAD, SAMPLES, TRIAL, ROWS, WARM_UP, END = "load", "samples", "trial", "rows", "warm-up", "end"  # the steps

_TOO_LONG = "it takes longer than --probe-timeout"
_PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h


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
