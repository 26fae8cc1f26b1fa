"""One sequence: its steps, run one after the other on the state that the one before has left.

A step becomes an ordinary job once the step before has ended: its state inputs are the state's rows, and its outputs
include the next state's. A request of several steps becomes one job after the other in the same way, so that it joins
and leaves the running batch between them.

    phase      a request's step                    left by                              for
    IDLE       none; the state is kept             add()                                QUEUED
                                                   evict(): idle for too long, or the   EVICTED
                                                   model stops, and follow() finds none
                                                   end(), free()                        OVER
    QUEUED     is about to be submitted            its job is queued                    RUNNING
                                                   it is refused, or was withdrawn      IDLE
    RUNNING    waits in the batcher, or runs       it ended, and another one follows    HELD
                                                   it was the request's last            IDLE
    HELD       the next one waits until its        the caller has read                  QUEUED
               caller has read more                withdraw()                           QUEUED
    OVER       none; no further one is taken
    EVICTED    none, and the state is forgotten

No lock is held while a job is submitted or an outcome is delivered. A model that stops because it was loaded again has
a successor, of the same name and version: the sequence goes on there in the phase that it is in, see follow().
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING

from onnxserve.tensor import Array
from onnxserve_server.core import Job, Request, Result, Step, StepResult
from onnxserve_server.engine.sequence_state import State, StepOutcome
from onnxserve_server.errors import ModelStopped, SequencesFull, ServeError
from onnxserve_server.scheduling.services import Services

if TYPE_CHECKING:
    from onnxserve_server.engine.live_sequences import LiveSequences
    from onnxserve_server.engine.model import ServedModel

logger = logging.getLogger(__name__)

StepDone = Callable[[StepResult | ServeError], None]
"""What a request calls with the result of each of its steps. From any thread; it must not raise or block."""

Hold = Callable[[Callable[[], None]], bool]
"""Asked before each further step of a request: True stops it until the given function is called."""


class Phase(Enum):
    """What a sequence does now; see the table above."""

    IDLE = auto()
    QUEUED = auto()
    RUNNING = auto()
    HELD = auto()
    OVER = auto()
    EVICTED = auto()


# Python 3.11 takes long to look a member up in its class.
_IDLE, _QUEUED, _RUNNING, _HELD, _OVER, _EVICTED = Phase


class PendingStep:
    """A request from its arrival to the end of its last step."""

    __slots__ = ("_sequence", "done", "fed", "hold", "job", "number", "request", "step", "withdrawn")

    def __init__(self, sequence: "LiveSequence", request: Request, step: Step, done: StepDone, hold: Hold) -> None:
        self.request = request
        self.step = step
        self.done = done
        self.hold = hold
        self.number = 0
        self.fed: Mapping[int, Array] = {}
        self.job: Job | None = None
        self.withdrawn: ServeError | None = None
        self._sequence = sequence

    @property
    def deadline(self) -> float:
        """Of the whole request: a time of the engine's clock, inf for none."""
        return self.request.deadline

    def withdraw(self, error: ServeError) -> None:
        """End the request with `error` unless it has ended. The state stays as it was before the step in flight."""
        self._sequence.withdraw(self, error)

    def follow(self, stopped: "LiveSequences") -> bool:
        """See LiveSequence.follow()."""
        return self._sequence.follow(stopped)


class LiveSequence:
    """A sequence from its first step to its end or eviction.

    Args:
        model: runs the steps.
        services: what all models share.
        state: what to begin with; None: the model's initial state.
        handoff: whether the state is wanted when the server stops.
        on_evicted: called with the sequence and the reason when the state has been forgotten, from any thread; None
            for a sequence that LiveSequences does not count.
        find_successor: returns what serves now in the place of the model, which was stopped; None: nothing does.
    """

    def __init__(
        self,
        model: "ServedModel",
        services: Services,
        state: State | None,
        *,
        handoff: bool,
        on_evicted: Callable[["LiveSequence", str], None] | None = None,
        find_successor: Callable[["ServedModel"], "ServedModel | None"] = lambda _: None,
    ) -> None:
        self.model = model
        self.state = state  # touched by the step in flight alone, or when there is none
        self.handoff = handoff
        self.idle_since: float | None = None
        self._services = services
        self._on_evicted = on_evicted
        self._find_successor = find_successor
        self._lock = threading.Lock()
        self._phase = _IDLE
        self._current: PendingStep | None = None  # the request whose step is queued, running or held
        self._waiting: deque[PendingStep] = deque()  # the requests behind it
        self._started = False  # a step has succeeded
        self._ends_when_idle = False

    @property
    def phase(self) -> Phase:
        """What it does now."""
        return self._phase

    @property
    def is_fresh(self) -> bool:
        """Whether no step has succeeded, and none waits or runs."""
        with self._lock:
            return not self._started and self._phase is _IDLE

    def add(self, pending: PendingStep) -> bool:
        """Take a request; False: the sequence is over or evicted."""
        with self._lock:
            if self._phase in (_OVER, _EVICTED):
                return False
            self.idle_since = None
            self._waiting.append(pending)
        self._run_next()
        return True

    def evict(self, reason: str) -> bool:
        """Forget the state and free the place, unless a step waits or runs; tell whether it is forgotten."""
        with self._lock:
            if self._phase is not _IDLE or self._waiting:
                return False
            self._phase, self.state, self.idle_since = _EVICTED, None, None
        self.model.sequences.free(self)
        if self._on_evicted is not None:
            self._on_evicted(self, reason)
        return True

    def follow(self, stopped: "LiveSequences") -> bool:
        """Leave a model that was stopped for what serves in its place; tell whether that is done, by whomever."""
        with self._lock:
            old = self.model
            if old.sequences is not stopped:
                return True
            if self._phase in (_OVER, _EVICTED) or (successor := self._find_successor(old)) is None:
                return False
            if self._on_evicted is not None and not self._ends_when_idle:
                try:
                    successor.sequences.open(self)
                except (SequencesFull, ModelStopped):
                    return False
            self.model = successor
            stopped.free(self)
            if self._phase is _HELD and self._current is not None:
                stopped.let_go(self._current)
                successor.sequences.hold(self._current)
        return True

    def end(self) -> None:
        """Free the sequence when what waits or runs has ended."""
        with self._lock:
            self._ends_when_idle = True
            idle = self._phase is _IDLE and not self._waiting
        if idle:
            self.free()

    def free(self) -> None:
        """Let another sequence have its place; what waits or runs goes on."""
        with self._lock:
            self._ends_when_idle = True
            if self._phase is _IDLE and not self._waiting:
                self._phase = _OVER
        self.model.sequences.free(self)

    def withdraw(self, pending: PendingStep, error: ServeError) -> None:
        """End a request, whether it waits, is held, or runs."""
        with self._lock:
            waits, job = pending in self._waiting, pending.job
            held = self._phase is _HELD and self._current is pending
            if waits:
                self._waiting.remove(pending)
            elif held:
                self._leave_held(pending)
            elif self._current is pending:
                pending.withdrawn = error
        if waits:
            self._deliver(pending, error)
        elif held:
            self._finish(pending, error)
        elif job is not None:
            job.withdraw(error)
        if waits or held:
            self._run_next()
            self._services.flusher.flush()

    def _run_next(self) -> None:
        """Start the steps of the next request, if no other one's is on its way."""
        while (pending := self._enter_queued()) is not None:
            if self._start(pending):
                return

    def _start(self, pending: PendingStep) -> bool:
        """Submit the next step of the current request; False: it could not be, and the request is over."""
        number = pending.number
        try:
            job = self._submit(pending)
        except ServeError as error:
            self._finish(pending, error)
        except Exception:
            logger.exception("a step of %s failed unexpectedly", self.model.spec.name)
            self._finish(pending, ServeError("the server failed on this request; its log says why"))
        else:
            self._enter_running(pending, number, job)
            if pending.withdrawn is not None:
                job.withdraw(pending.withdrawn)
            return True
        return False

    def _submit(self, pending: PendingStep) -> Job:
        request, step, model = pending.request, pending.step, self.model
        states = model.states
        if pending.number:
            request = states.without_fed(request)
        state = states.initial(request) if self.state is None else self.state
        server_inputs = states.server_inputs(state, pending.fed, step)

        def end(outcome: Result | ServeError) -> None:
            self._on_end(pending, state, outcome)

        try:
            return model.submit(request, self._services.clock(), end, server_inputs)
        except ModelStopped:
            if not self.follow(model.sequences):
                raise
            return self._submit(pending)

    def _on_end(self, pending: PendingStep, before: State, outcome: Result | ServeError) -> None:
        if isinstance(outcome, Result):
            try:
                after = self.model.states.outcome(outcome, before, pending.step)
            except ServeError as error:
                outcome = error
        if isinstance(outcome, ServeError):
            self._finish(pending, outcome)
        else:
            self._go_on(pending, after)
        self._run_next()
        self._services.flusher.flush()

    def _go_on(self, pending: PendingStep, after: StepOutcome) -> None:
        """Deliver a step's result, and start the request's next step if there is one."""
        step, number = pending.step, pending.number
        self.state = after.state
        self._started = True
        final = step.max_steps is None or after.stops or number + 1 >= step.max_steps
        state = self.model.states.described(after.state) if step.snapshot else None
        result = StepResult(after.result, state, number, final)
        if final:
            self._finish(pending, result)
            return
        pending.done(result)
        self._enter_held(pending, after.fed)
        if pending.withdrawn is not None or not pending.hold(lambda: self._resume(pending)):
            self._resume(pending)
            return
        with self._lock:
            if self._phase is _HELD and self._current is pending:
                self.model.sequences.hold(pending)

    def _resume(self, pending: PendingStep) -> None:
        """Start the next step of a request that was held, unless it was withdrawn meanwhile."""
        with self._lock:
            if not (self._phase is _HELD and self._current is pending):
                return
            self._leave_held(pending)
        if pending.withdrawn is not None:
            self._finish(pending, pending.withdrawn)
            self._run_next()
        elif not self._start(pending):
            self._run_next()
        self._services.flusher.flush()

    def _finish(self, pending: PendingStep, outcome: StepResult | ServeError) -> None:
        with self._lock:
            self._phase, self._current = _IDLE, None
        self._deliver(pending, outcome)

    def _deliver(self, pending: PendingStep, outcome: StepResult | ServeError) -> None:
        if pending.step.end:
            self.free()
        pending.done(outcome)

    def _enter_queued(self) -> PendingStep | None:
        """Make the request that waits longest the current one; None: none waits, or another one is the current one."""
        with self._lock:
            if self._phase is not _IDLE:
                return None
            if self._waiting:
                self._phase, self._current = _QUEUED, self._waiting.popleft()
                return self._current
            ends = self._ends_when_idle
        if ends:
            self.free()
        else:
            self.model.sequences.rest(self)
        return None

    def _enter_running(self, pending: PendingStep, number: int, job: Job) -> None:
        with self._lock:  # the job may have ended, and the next one been submitted, before we come to know it
            if self._phase is _QUEUED and self._current is pending and pending.number == number:
                self._phase, pending.job = _RUNNING, job

    def _enter_held(self, pending: PendingStep, fed: Mapping[int, Array]) -> None:
        with self._lock:
            self._phase, pending.job = _HELD, None
            pending.fed = fed
            pending.number += 1

    def _leave_held(self, pending: PendingStep) -> None:
        """Go on with the next step of the current request; the lock is taken."""
        self._phase = _QUEUED
        self.model.sequences.let_go(pending)
