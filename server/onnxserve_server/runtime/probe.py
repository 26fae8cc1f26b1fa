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
from onnxserve_server.runtime.bases import bases
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.runtime.row_check import examine
from onnxserve_server.runtime.samples import run_sample, warm_up
from onnxserve_server.runtime.session import RunHandle, Session, SessionOptions
from onnxserve_server.runtime.trials import changed, trials
from onnxserve_server.runtime.verdict import Verdict
from onnxserve_server.spec import Condition, InputRule

LOAD, BASES, TRIAL, ROWS, WARM_UP, END = "load", "bases", "trial", "rows", "warm-up", "end"  # the steps

_BASES_SHARE, _TRIALS_SHARE = 1 / 4, 1 / 2  # of the time for all runs, which must be over then
_MIN_CPU = 4.0  # seconds of CPU time after which a kernel is taken never to return from a trial
_TIMES = 20.0  # or so often the CPU time of the longest run so far
_MAX_STARTS = 6
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
        died: how ordinary inputs ended the process; "" if they did not.
    """

    verdict: Verdict
    rules: tuple[InputRule, ...] = ()
    warm_up_rows: int = 0
    warm_up_failure: str = ""
    untried: str = ""
    died: str = ""


class _BoundedSession(Session):
    """A session whose runs are stopped when the time for all of them is over, and that runs nothing known to be fatal.

    Attributes:
        rules: of what is known to be fatal.
        cpu_seconds: the CPU time of the longest run.
    """

    def __init__(self, path: Path, options: SessionOptions, rules: Sequence[InputRule]) -> None:
        super().__init__(path, options)
        self.rules = rules
        self._until = math.inf
        self.cpu_seconds = 0.0

    def allow(self, seconds: float) -> None:
        """Start the time for the next runs."""
        self._until = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """What is left of that time; 0 once it is over."""
        return max(0.0, self._until - time.monotonic())

    def run(self, feeds: dict[str, Array], outputs: Sequence[str], handle: RunHandle | None = None) -> list[Array]:
        """See Session.run()."""
        for rule in self.rules:
            if rule.holds(feeds):
                raise RunFailed(f"not run: {rule.reason}")
        handle = handle or RunHandle()
        timer = threading.Timer(self.seconds_left, handle.stop)
        timer.start()
        began = time.process_time()
        try:
            if self.seconds_left:
                return super().run(feeds, outputs, handle)
        except RunFailed:
            if self.seconds_left:
                raise
        finally:
            timer.cancel()
            self.cpu_seconds = max(self.cpu_seconds, time.process_time() - began)
        raise RunFailed(_TOO_LONG)


def _messages(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Load and try a model; yield each step before it is done, and what it gave."""
    options = request["options"] | {"axes": BatchAxes(**request["options"]["axes"])}
    try:
        session = _BoundedSession(Path(request["path"]), SessionOptions(**options), list(map(_rule, request["rules"])))
    except ConfigurationError as error:
        yield {"step": END, "error": str(error)}
        return
    session.allow(request["seconds"])
    if not request["skip_trials"]:
        yield from _try_all(session, request)
    yield {"step": ROWS}
    verdict = examine(session)
    yield {"step": WARM_UP, "verdict": asdict(verdict)}
    rows = request["max_rows"] if verdict.batchable or request["batched"] else 1
    failure = warm_up(session, rows, session.rules)
    yield {"step": END, "warm_up": (0 if failure else rows, failure)}


def _rule(written: Any) -> InputRule:
    conditions, reason = written
    return InputRule(tuple(Condition(*condition) for condition in conditions), reason)


def _try_all(session: _BoundedSession, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run each trial but the first `done` ones, and those that contain what has been fatal."""
    known = [set(rule.conditions) for rule in session.rules]
    with _silent():
        starts: list[dict[str, Array]] = []
        yield from _find_starts(session, request, starts)
        for number, trial in enumerate(trials(session.inputs)):
            if number < request["done"] or any(conditions <= set(trial) for conditions in known):
                continue
            if session.seconds_left < request["seconds"] * (1 - _TRIALS_SHARE):
                yield {"untried": _TOO_LONG}
                return
            yield {"step": TRIAL, "trial": (number, trial), "cpu_seconds": max(_MIN_CPU, _TIMES * session.cpu_seconds)}
            for feeds in starts[: None if any(axis is not None for _, axis, _ in trial) else 1]:
                with contextlib.suppress(RunFailed):
                    run_sample(session, changed(feeds, trial))


def _find_starts(
    session: _BoundedSession, request: dict[str, Any], found: list[dict[str, Array]]
) -> Iterator[dict[str, Any]]:
    """Leave inputs that the model runs on in `found`, of one row and of two; where there are none, the first tried."""
    for number, base in enumerate(bases(session.inputs)):
        if session.seconds_left < request["seconds"] * (1 - _BASES_SHARE):
            return
        if number >= request["bases_done"] and base.fits(session.inputs, 2):
            yield {"step": BASES, "base": number}
            feeds = [base.feed(session.inputs, rows) for rows in (1, 2)]
            with contextlib.suppress(RunFailed):
                run_sample(session, feeds[0])
                found[:] = feeds
                return
            found += feeds if len(found) < _MAX_STARTS else ()


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
