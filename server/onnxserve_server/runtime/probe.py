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
from onnxserve_server.runtime.limited import OUT_OF_TIME
from onnxserve_server.runtime.row_check import examine
from onnxserve_server.runtime.row_hints import hints_of
from onnxserve_server.runtime.session import RunHandle, Session, SessionOptions
from onnxserve_server.runtime.trials import FATAL, Kind, Trial, changed, is_fatal, kinds
from onnxserve_server.runtime.verdict import Verdict
from onnxserve_server.runtime.warm_up import run_all, warm_up
from onnxserve_server.spec import Condition, InputRule

LOAD, BASES, TRIAL, ROWS, WARM_UP, END = "load", "bases", "trial", "rows", "warm-up", "end"  # the steps

# Of the time for all runs: when each of these must be over, and the CPU time of trials that are rarely fatal.
_BASES_SHARE, _TRIALS_SHARE, _RARE_SHARE = 1 / 4, 1 / 2, 1 / 12
_MIN_CPU = 4.0  # seconds of CPU time after which a kernel is taken never to return from a trial
_TIMES = 20.0  # or so often the CPU time of the longest run so far
_GRACE = 5.0  # seconds for a kernel to return from a run that is stopped
_GRACE_TIMES = 2.0  # or so often the longest run so far
_MAX_STARTS = 6
_OTHER_SIZES_CPU = 1.0  # seconds of CPU time to find inputs of other sizes than the first that run
_UNTRIED = "some requests were not tried for lack of time, which a longer --probe-timeout gives, with: {}"
_NO_START = (
    "no made-up inputs were found that it runs on, and a kernel that refuses a request does not die of it; a "
    "report.json beside the model can hold some, as check.rows"
)
_NO_START_IN_TIME = "within a quarter of --probe-timeout no made-up inputs were found that it runs on"
_PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h


@dataclass(frozen=True, slots=True)
class Findings:
    """What trying a model has shown.

    Attributes:
        verdict: whether requests may share runs.
        rules: what no request may hold.
        warm_up_rows: the rows that the model was warmed up with; 0: it could not be, for `warm_up_failure`.
        untried: which trials were not made, or show nothing, and why; "" if all were made.
        died: how ordinary inputs ended the process; "" if they did not, or only took too long.
    """

    verdict: Verdict
    rules: tuple[InputRule, ...] = ()
    warm_up_rows: int = 0
    warm_up_failure: str = ""
    untried: str = ""
    died: str = ""


class _BoundedSession(Session):
    """A session whose runs are stopped when the time for them is over, and refused if they are known to be fatal.

    Attributes:
        cpu_seconds: the CPU time of the longest run.
        run_seconds: the time that it took.
    """

    def __init__(self, path: Path, options: SessionOptions, fatal: Sequence[Trial]) -> None:
        super().__init__(path, options)
        self._fatal = fatal
        self._until = math.inf
        self.cpu_seconds = self.run_seconds = 0.0

    def allow(self, until: float) -> None:
        """Let the next runs take until a time of time.monotonic()."""
        self._until = until

    @property
    def seconds_left(self) -> float:
        """What is left of that time; 0 once it is over."""
        return max(0.0, self._until - time.monotonic())

    @property
    def max_seconds(self) -> float:
        """How long it may be until the next runs are over, with what a kernel takes to return once it is stopped."""
        return self.seconds_left + max(_GRACE, _GRACE_TIMES * self.run_seconds)

    def run(self, feeds: dict[str, Array], outputs: Sequence[str], handle: RunHandle | None = None) -> list[Array]:
        """See Session.run()."""
        if is_fatal(feeds, self._fatal):
            raise RunFailed(FATAL)
        handle = handle or RunHandle()
        timer = threading.Timer(self.seconds_left, handle.stop)
        timer.start()
        began, cpu = time.monotonic(), time.process_time()
        try:
            if self.seconds_left:
                return super().run(feeds, outputs, handle)
        except RunFailed:
            if self.seconds_left:
                raise
        finally:
            timer.cancel()
            self.cpu_seconds = max(self.cpu_seconds, time.process_time() - cpu)
            self.run_seconds = max(self.run_seconds, time.monotonic() - began)
        raise RunFailed(OUT_OF_TIME)


def _messages(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Load and try a model; yield each step before it is done, how long it may take, and what it gave."""
    options = request["options"] | {"axes": BatchAxes(**request["options"]["axes"])}
    fatal = [tuple(Condition(*condition) for condition in trial) for trial in request["fatal"]]
    try:
        session = _BoundedSession(Path(request["path"]), SessionOptions(**options), fatal)
    except ConfigurationError as error:
        yield {"step": END, "error": str(error)}
        return
    began = time.monotonic() - request["spent"]
    if not request["skip_trials"]:
        yield from _Trials(session, request, fatal, began).messages()
    session.allow(began + request["seconds"])
    yield {"step": ROWS, "seconds": session.max_seconds}
    verdict = examine(session, session.seconds_left / 2)
    yield {"step": WARM_UP, "verdict": asdict(verdict), "seconds": session.max_seconds}
    rows = request["max_rows"] if verdict.batchable or request["batched"] else 1
    yield {"step": END, "warm_up": warm_up(session, rows, fatal)}


class _Trials:
    """The trials of one model. `began`: when the time for all its runs began."""

    def __init__(self, session: _BoundedSession, request: dict[str, Any], fatal: Sequence[Trial], began: float) -> None:
        self._session = session
        self._request = request
        self._began = began
        self._fatal = [set(trial) for trial in fatal]
        self._starts: list[dict[str, Array]] = []
        self._has_run = False
        self._no_start = ""
        self._first: int = request["bases_done"]
        self._count = 0

    def messages(self) -> Iterator[dict[str, Any]]:
        """Run each trial but the first `done` ones, and those that contain what has been fatal."""
        with _silent():
            seconds = self._request["seconds"]
            end = self._began + _TRIALS_SHARE * seconds
            # Counted from now on, for each child has to find them.
            self._session.allow(min(end, time.monotonic() + _BASES_SHARE * seconds))
            yield from self._find_starts()
            self._no_start = _NO_START if self._session.seconds_left else _NO_START_IN_TIME
            self._session.allow(end)
            left_out = list[str]()
            for kind in kinds(self._session.inputs):
                yield from self._run_kind(kind, left_out)
        if left_out:
            yield {"untried": _UNTRIED.format(", ".join(left_out))}
        elif self._count and not self._has_run:
            yield {"untried": self._no_start}

    def _run_kind(self, kind: Kind, left_out: list[str]) -> Iterator[dict[str, Any]]:
        """Run the trials of one kind; if some are left when the time is over, add its name to those left out."""
        until = time.process_time() + _RARE_SHARE * self._request["seconds"] if kind.is_rare else math.inf
        for trial in kind.trials:
            self._count += 1
            if self._count <= self._request["done"] or any(conditions <= set(trial) for conditions in self._fatal):
                continue
            if self._session.seconds_left:
                cpu_seconds = max(_MIN_CPU, _TIMES * self._session.cpu_seconds)
                step = {"step": TRIAL, "trial": (self._count, trial), "cpu_seconds": cpu_seconds, "first": self._first}
                yield step | {"seconds": self._session.max_seconds}
                self._run(trial)
            if not self._session.seconds_left or time.process_time() > until:  # also if that trial was not completed
                left_out.append(kind.name)
                return

    def _run(self, trial: Trial) -> None:
        for feeds in self._starts:
            with contextlib.suppress(RunFailed):
                run_all(self._session, changed(feeds, trial))

    def _find_starts(self) -> Iterator[dict[str, Any]]:
        """Find inputs that the model runs on, of one row and of two, and some of other sizes.

        Where there are none, the first that were tried are taken.
        """
        session, until = self._session, math.inf
        for number, base in enumerate(bases(session.inputs, hints_of(session))):
            if not session.seconds_left or time.process_time() > until:
                return
            if number < self._request["bases_done"] or not base.is_small:
                continue
            yield {"step": BASES, "base": number, "seconds": session.max_seconds}
            feeds = base.one()
            try:
                run_all(session, feeds)
            except RunFailed:
                self._starts += [] if self._has_run or len(self._starts) == _MAX_STARTS else [feeds]
            else:
                if self._has_run and any(feeds[name].shape != array.shape for name, array in self._starts[0].items()):
                    self._starts.append(feeds)
                    return
                if not self._has_run:
                    self._starts, self._has_run, self._first = [feeds, base.two(feeds)], True, number
                    has_free_axes = any(spec.has_free_axes for spec in session.inputs)
                    until = time.process_time() + (_OTHER_SIZES_CPU if has_free_axes else 0.0)


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
