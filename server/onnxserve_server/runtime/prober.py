"""The parent of the process that probes models; see probe.py for what that one does."""

import math
import signal
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.probe import BASES, END, LOAD, TRIAL, WARM_UP, Findings
from onnxserve_server.runtime.probe_process import Bounds, ProbeEnded, ProbeProcess
from onnxserve_server.runtime.resources import memory_left
from onnxserve_server.runtime.session import SessionOptions
from onnxserve_server.runtime.verdict import Verdict
from onnxserve_server.spec import Condition, InputRule

_MAX_DEATHS = 8  # of one model, and further ones in a share of the time for its runs, counted from the first load
_DEATHS_SHARE = 1 / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeLimits:
    """What it may take to try one model.

    Attributes:
        load: seconds to load it; after so many, nothing is tried when the child has died once more.
        tries: seconds for all runs, however often the child has to be started again.
        memory_bytes: resident memory of the child process; 0: three quarters of what the server's own process leaves.
    """

    load: float = 300.0
    tries: float = 60.0
    memory_bytes: int = 0


class Prober:
    """Keeps one child process that probes models, one at a time; after a death the next one gets a new child.

    Args:
        limits: what one model may take.
        stop: ends a probe that is under way, once it is set.
    """

    def __init__(self, limits: ProbeLimits = ProbeLimits(), stop: threading.Event | None = None) -> None:
        self._limits = limits
        self._stop = stop or threading.Event()
        self._child: ProbeProcess | None = None

    def probe(self, path: Path, options: SessionOptions, *, max_rows: int = 1, batched: bool = False) -> Findings:
        """Load and try a model in the child process, and go on with a new one after what was fatal.

        Args:
            path: the model file.
            options: how it is loaded.
            max_rows: so many rows it is warmed up with, if requests may share runs.
            batched: whether they do, whatever the verdict.

        Raises:
            ConfigurationError: the model cannot be loaded, took too long, or crashed the child process; or the server
                stops.
        """
        request = {"path": str(path), "options": asdict(options), "max_rows": max_rows, "batched": batched}
        progress, began = _Progress(), time.monotonic()
        while progress.step != END:
            try:
                self._converse(progress, request)
            except ProbeEnded as ended:
                self.close()
                if self._stop.is_set():
                    raise ConfigurationError(f"{path}: it is not loaded, for the server stops") from None
                if progress.step == LOAD and not progress.deaths:
                    raise ConfigurationError(f"{path}: {_why_not_loaded(ended)}") from None
                progress.note_death(ended)
                self._bound_deaths(progress, time.monotonic() - began)
        if progress.error:
            raise ConfigurationError(progress.error)
        return progress.findings()

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> "Prober":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bound_deaths(self, progress: "_Progress", seconds: float) -> None:
        """Leave out the trials that are left if too many were fatal, or the child took too long to start again."""
        if seconds > self._limits.load:
            progress.skip_trials(f"it took longer than {self._limits.load:g} s")
        elif progress.deaths >= _MAX_DEATHS and seconds - progress.load_seconds > _DEATHS_SHARE * self._limits.tries:
            progress.skip_trials(f"{progress.deaths} trials ended the process that probes it, the rest were not made")

    def _converse(self, progress: "_Progress", request: dict[str, Any]) -> None:
        """Have the child do what is left, and note what it says; raises ProbeEnded."""
        limits, child, began = self._limits, self._running_child(), time.monotonic()
        progress.step, bounds = LOAD, Bounds(limits.load, math.inf, self._memory_bytes())
        child.send(request | progress.as_request() | {"seconds": limits.tries})
        progress.note(child.receive(bounds))
        loaded = time.monotonic()
        progress.load_seconds = progress.load_seconds or loaded - began
        try:
            while progress.step != END:
                progress.note(child.receive(bounds._replace(**progress.bounds)))
        finally:
            progress.spent += time.monotonic() - loaded

    def _memory_bytes(self) -> int:
        return self._limits.memory_bytes or memory_left() * 3 // 4

    def _running_child(self) -> ProbeProcess:
        if self._child is not None and self._child.status is not None:
            self.close()
        if self._child is None:
            self._child = ProbeProcess(self._stop)
        return self._child


@dataclass(kw_only=True)
class _Progress:
    """What is known of a model so far, and what the child does now: a step, its `bounds`; of a trial, its conditions.

    `spent`: seconds since the model was loaded, in all children; `load_seconds`: how long the first took to load it.
    """

    step: str = LOAD
    conditions: tuple[Condition, ...] = ()
    error: str = ""
    bounds: dict[str, Any] = field(default_factory=dict)
    spent: float = 0.0
    load_seconds: float = 0.0
    base: int = 0
    bases_done: int = 0
    done: int = 0
    deaths: int = 0
    verdict: Verdict = field(default_factory=lambda: Verdict(False))
    rules: list[InputRule] = field(default_factory=list)
    warm_up_rows: int = 0
    warm_up_failure: str = ""
    untried: str = ""
    died: str = ""

    def as_request(self) -> dict[str, Any]:
        """Return what need not be tried again."""
        fatal = [rule.conditions for rule in self.rules]
        return {
            "bases_done": self.bases_done,
            "done": self.done,
            "fatal": fatal,
            "skip_trials": bool(self.untried),
            "spent": self.spent,
        }

    def note(self, message: dict[str, Any]) -> None:
        """Take a message of the child."""
        self.step = message.get("step", self.step)
        self.error = message.get("error", self.error)
        self.untried = message.get("untried", self.untried)
        self.base = message.get("base", self.base)
        self.bounds = {key: value for key, value in message.items() if key in Bounds._fields}
        if "trial" in message:
            self.done, conditions = message["trial"]
            self.bases_done = message["first"]
            self.conditions = tuple(Condition(*condition) for condition in conditions)
        if "verdict" in message:
            self.verdict = Verdict.of(message["verdict"])
        if "warm_up" in message:
            self.warm_up_rows, self.warm_up_failure = message["warm_up"]

    def note_death(self, ended: ProbeEnded) -> None:
        """Take down what the step at hand has ended in: after a trial there is more to try, else there is not."""
        self.deaths += 1
        if self.step == TRIAL:
            self._note_fatal_trial(ended)
        elif self.step == BASES and ended.status is not None:
            self.bases_done = self.base + 1
        else:
            self._give_up(f"trying it ended the process that probes it ({ended})", is_late=ended.is_late)

    def _give_up(self, reason: str, *, is_late: bool) -> None:
        self.died, self.warm_up_failure = "" if is_late else reason, reason
        if self.step != WARM_UP:
            self.verdict = Verdict(False, reason)
        if self.step in (LOAD, BASES):
            self.skip_trials(reason)
        self.step = END

    def skip_trials(self, reason: str) -> None:
        """Leave out the trials that are left."""
        self.untried = self.untried or reason

    def _note_fatal_trial(self, ended: ProbeEnded) -> None:
        if ended.status == -signal.SIGKILL or ended.is_late:  # for lack of memory, or of time: perhaps others' fault
            what = " and ".join(map(str, self.conditions))
            self.skip_trials(
                f"the trials ended with one for which {what}: the process that probes it was ended, {ended}"
            )
        # A value of which a run takes very long, such as a number of steps, has neighbours of which it does, too: a
        # rule against the one value would be of no use.
        elif ended.status is not None or any(axis is not None for _, axis, _ in self.conditions):
            self.rules.append(InputRule(self.conditions, f"a trial of it ended the process ({ended})"))

    def findings(self) -> Findings:
        return Findings(
            verdict=self.verdict,
            rules=tuple(self.rules),
            warm_up_rows=self.warm_up_rows,
            warm_up_failure=self.warm_up_failure,
            untried=self.untried,
            died=self.died,
        )


def _why_not_loaded(ended: ProbeEnded) -> str:
    if ended.status is not None:
        return (
            f"loading the model ended the process that probes it ({ended}), so it is not loaded here; another "
            f"graph_optimization may help"
        )
    return f"the model could not be loaded and tried: {ended}"
