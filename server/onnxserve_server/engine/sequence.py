"""One sequence: its steps, run one after the other on the state that the one before has left.

A step becomes an ordinary job once the step before has ended: its state inputs are the state's rows, and its outputs
include the next state's. A request of several steps becomes one job after the other in the same way, so that it joins
and leaves the running batch between them.

No lock is held while a job is submitted or an outcome is delivered.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from onnxserve.tensor import Array
from onnxserve_server.core import Clock, Job, Request, Result, Step, StepResult
from onnxserve_server.engine.entry import Entry
from onnxserve_server.engine.sequence_state import After, State
from onnxserve_server.errors import ServeError
from onnxserve_server.spec import ModelSpec

logger = logging.getLogger(__name__)

StepDone = Callable[[StepResult | ServeError], None]
"""What a request calls with the result of each of its steps. From any thread; it must not raise or block."""

Hold = Callable[[Callable[[], None]], bool]
"""RequestInfo before each further step of a request: True stops it until the given function is called."""


class Door(Protocol):
    """What sequences need of the engine."""

    clock: Clock
    draining: bool

    def entry(self, name: str, version: str) -> Entry:
        """Return what is kept of a model; raises ModelNotFound."""
        ...

    def known(self, name: str, version: str) -> ModelSpec | None:
        """Return what is known of a model; None: nothing is."""
        ...

    def queue(self, entry: Entry, job: Job) -> None:
        """Queue an admitted job, also while draining; raises as Engine.submit does."""
        ...

    def flush(self) -> None:
        """Have run what has been queued."""
        ...


class PendingStep:
    """A request from submit() to the end of its last step. Implements scheduling.sequences.Held."""

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
        """End the request with `error` unless it has ended. The state stays as it was before the step in hand."""
        self._sequence.withdraw(self, error)


class LiveSequence:
    """A sequence from its first step to its end or eviction. Implements scheduling.sequences.Live.

    Args:
        engine: runs the steps.
        entry: the model's.
        state: what to begin with; None: the model's initial state.
        handoff: whether the state is wanted when the server stops.
        on_evicted: called when the state has been forgotten, from any thread.
    """

    def __init__(
        self,
        engine: Door,
        entry: Entry,
        state: State | None,
        *,
        handoff: bool,
        on_evicted: Callable[["LiveSequence"], None] | None = None,
    ) -> None:
        self.entry = entry
        self.state = state  # touched by the step in flight alone, or when there is none
        self.handoff = handoff
        self.idle_since: float | None = None
        self._engine = engine
        self._on_evicted = on_evicted
        self._lock = threading.Lock()
        self._waiting: deque[PendingStep] = deque()
        self._running: PendingStep | None = None
        self._held = False  # the running one waits for its caller to read
        self._started = False  # a step has succeeded
        self._over = False  # nothing comes after what waits or runs
        self._evicted = False

    @property
    def is_fresh(self) -> bool:
        """Whether no step has succeeded, and none waits or runs."""
        with self._lock:
            return not self._started and self._running is None and not self._waiting

    def add(self, pending: PendingStep) -> bool:
        """Take a request; False: the sequence is evicted."""
        with self._lock:
            if self._evicted:
                return False
            self.idle_since = None
            self._waiting.append(pending)
        self._run_next()
        return True

    def evict(self) -> bool:
        """Forget the state, unless a step runs or waits; tell whether it is forgotten."""
        with self._lock:
            if self._running is not None or self._waiting:
                return False
            self._evicted, self.state, self.idle_since = True, None, None
        if self._on_evicted is not None:
            self._on_evicted(self)
        return True

    def end(self) -> None:
        """Free the sequence when what waits or runs has ended."""
        with self._lock:
            self._over = True
            busy = self._running is not None or self._waiting
        if not busy:
            self.free()

    def free(self) -> None:
        """Note that the sequence is over."""
        self.entry.model.sequences.free(self)

    def withdraw(self, pending: PendingStep, error: ServeError) -> None:
        """End a request, whether it waits, is held, or runs."""
        with self._lock:
            waits, job = pending in self._waiting, pending.job
            held = self._held and self._running is pending
            if waits:
                self._waiting.remove(pending)
            elif held:
                self._let_go(pending)
            elif self._running is pending:
                pending.withdrawn = error
        if waits:
            self._deliver(pending, error)
        elif held:
            self._finish(pending, error)
        elif job is not None:
            job.withdraw(error)
        if waits or held:
            self._run_next()
            self._engine.flush()

    def _run_next(self) -> None:
        while True:
            with self._lock:
                if self._running is not None:
                    return
                if not self._waiting:
                    over = self._over
                    break
                pending = self._running = self._waiting.popleft()
            if self._start(pending):
                return
        if over:
            self.free()
        else:
            self.entry.model.sequences.rest(self)

    def _start(self, pending: PendingStep) -> bool:
        """Submit the next step of the running request; False: it could not be, and is over."""
        try:
            job = self._submit(pending)
        except ServeError as error:
            self._finish(pending, error)
        except Exception:
            logger.exception("a step of %s failed unexpectedly", self.entry.model.spec.name)
            self._finish(pending, ServeError("the server failed on this request; its log says why"))
        else:
            with self._lock:
                if self._running is pending and not self._held:
                    pending.job = job
                withdrawn = pending.withdrawn
            if withdrawn is not None:
                job.withdraw(withdrawn)
            return True
        return False

    def _submit(self, pending: PendingStep) -> Job:
        entry, request, step = self.entry, pending.request, pending.step
        if pending.number:
            request = entry.states.without_fed(request)
        state = entry.states.initial(request) if self.state is None else self.state
        kept = entry.states.kept(state, pending.fed, step)

        def end(outcome: Result | ServeError) -> None:
            self._on_end(pending, state, outcome)

        job = entry.admission.admit(request, self._engine.clock(), end, kept)
        self._engine.queue(entry, job)
        return job

    def _on_end(self, pending: PendingStep, before: State, outcome: Result | ServeError) -> None:
        if isinstance(outcome, Result):
            try:
                after = self.entry.states.after(outcome, before, pending.step)
            except ServeError as error:
                outcome = error
        if isinstance(outcome, ServeError):
            self._finish(pending, outcome)
        else:
            self._go_on(pending, after)
        self._run_next()
        self._engine.flush()

    def _go_on(self, pending: PendingStep, after: After) -> None:
        """Deliver a step's result, and start the request's next step if there is one."""
        step, number = pending.step, pending.number
        self.state = after.state
        self._started = True
        final = step.most is None or after.stops or number + 1 >= step.most
        state = self.entry.states.described(after.state) if step.snapshot else None
        told = StepResult(after.result, state, number, final)
        if final:
            self._finish(pending, told)
            return
        pending.done(told)
        pending.fed = after.fed
        pending.number = number + 1
        with self._lock:
            pending.job = None
            self._held = True
            withdrawn = pending.withdrawn is not None
        if withdrawn or not pending.hold(lambda: self._resume(pending)):
            self._resume(pending)
            return
        with self._lock:
            if self._held and self._running is pending:
                self.entry.model.sequences.hold(pending)

    def _resume(self, pending: PendingStep) -> None:
        """Start the next step of a request that was held, unless it was withdrawn meanwhile."""
        with self._lock:
            if not (self._held and self._running is pending):
                return
            self._let_go(pending)
            withdrawn = pending.withdrawn
        if withdrawn is not None:
            self._finish(pending, withdrawn)
            self._run_next()
        elif not self._start(pending):
            self._run_next()
        self._engine.flush()

    def _let_go(self, pending: PendingStep) -> None:
        """Note that a request is held no longer; the lock is taken."""
        self._held = False
        self.entry.model.sequences.let_go(pending)

    def _finish(self, pending: PendingStep, outcome: StepResult | ServeError) -> None:
        with self._lock:
            self._running = None
        self._deliver(pending, outcome)

    def _deliver(self, pending: PendingStep, outcome: StepResult | ServeError) -> None:
        if pending.step.end:
            self.free()
        pending.done(outcome)
