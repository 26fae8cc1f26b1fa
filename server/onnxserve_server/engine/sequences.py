"""Sequences: state that the server keeps between the requests of a stream, and requests of several steps.

A layer above the batcher, which knows nothing of it. A step of a sequence becomes an ordinary job once the step
before has ended: its state inputs are the state's rows, and its outputs include the next state's. So a sequence has at
most one step in flight, while steps of different sequences share runs like any other jobs. A request of several steps
becomes one job after the other in the same way, so that it joins and leaves the running batch between them.

No lock is held while a job is submitted or an outcome is delivered.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from onnxserve.tensor import Array
from onnxserve_server.core import Clock, Job, Request, Result, Step, StepResult, TensorSpec
from onnxserve_server.engine.entry import Entry
from onnxserve_server.engine.states import After, State
from onnxserve_server.errors import Cancelled, Draining, InvalidRequest, SequenceEvicted, ServeError, Violation

logger = logging.getLogger(__name__)

StepDone = Callable[[StepResult | ServeError], None]
"""What a request calls with the result of each of its steps. From any thread; it must not raise or block."""

Hold = Callable[[Callable[[], None]], bool]
"""Asked before each further step of a request: True stops it until the given function is called."""

_MOST_STEPS = 10_000


class Door(Protocol):
    """What sequences need of the engine."""

    clock: Clock
    draining: bool

    def entry(self, name: str, version: str) -> Entry:
        """Return what is kept of a model; raises ModelNotFound."""
        ...

    def queue(self, entry: Entry, job: Job) -> None:
        """Queue an admitted job, also while draining; raises as Engine.submit does."""
        ...

    def flush(self) -> None:
        """Have run what has been queued."""
        ...


class SequenceSet:
    """The sequences of one stream, by the names that its caller gives them. submit() is for one thread at a time."""

    def __init__(self, engine: Door) -> None:
        self._engine = engine
        self._by_id: dict[str, _Sequence] = {}
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, request: Request, step: Step, done: StepDone, hold: Hold) -> "PendingStep":
        """Take a step, to be run after those of its sequence before it. `done` may be called before this returns.

        Raises:
            InvalidRequest: the model has no state, or the step does not fit its sequence, or it has too many steps.
            SequenceEvicted: the sequence was idle for too long.
            SequencesFull: it would be one more than may be live.
            ModelNotFound: as Engine.submit.
        """
        if step.most is not None and not 0 < step.most <= _MOST_STEPS:
            raise InvalidRequest([Violation("steps.max", f"{step.most} is not from 1 to {_MOST_STEPS}")])
        sequence = self._find(request, step) if step.sequence else self._nameless(request)
        if step.end:
            self._by_id.pop(step.sequence, None)
        pending = PendingStep(sequence, request, step, done, hold)
        if not sequence.add(pending):
            raise SequenceEvicted(
                f"the state of sequence {step.sequence!r} is gone: it was idle for too long", sequence=step.sequence
            )
        return pending

    def handoffs(self) -> list[tuple[str, Entry, Sequence[tuple[TensorSpec, Array]]]]:
        """Return name, model and state of each live sequence that is to be handed over. No step may be in flight."""
        return [
            (name, sequence.entry, sequence.entry.states.described(sequence.state))
            for name, sequence in list(self._by_id.items())
            if sequence.handoff and sequence.state is not None
        ]

    @property
    def must_stay(self) -> bool:
        """Whether a sequence is live that would be lost if the stream ended."""
        return any(not sequence.handoff and not sequence.evicted for sequence in list(self._by_id.values()))

    def close(self) -> None:
        """Free all sequences. Who submitted steps that wait or run has to withdraw them."""
        with self._lock:
            self._closed = True
            sequences, self._by_id = list(self._by_id.values()), {}
        for sequence in sequences:
            sequence.free()

    def _find(self, request: Request, step: Step) -> "_Sequence":
        sequence = self._by_id.get(step.sequence)
        if sequence is None or (sequence.evicted and step.state is not None):
            return self._open(request, step)
        if step.state is not None:
            raise InvalidRequest([Violation("sequence.state", "the sequence is live, and a state can only start one")])
        if request.model != sequence.entry.model.spec.name:
            told = f"sequence {step.sequence!r} is of model {sequence.entry.model.spec.name!r}"
            raise InvalidRequest([Violation("predict.model", told)])
        return sequence

    def _nameless(self, request: Request) -> "_Sequence":
        """Return a sequence for one request of several steps, whose state goes with it."""
        return _Sequence(self._engine, self._entry(request), None, handoff=True)

    def _entry(self, request: Request) -> Entry:
        if self._engine.draining:
            raise Draining("the server is about to stop")
        return self._engine.entry(request.model, request.version)

    def _open(self, request: Request, step: Step) -> "_Sequence":
        entry = self._entry(request)
        if not entry.model.spec.state:
            told = f"model {request.model!r} has no state to keep; leave the sequence out"
            raise InvalidRequest([Violation("sequence", told)])
        state = None if step.state is None else entry.states.read(step.state)
        sequence = _Sequence(self._engine, entry, state, handoff=step.handoff)
        with self._lock:  # close() may come from another thread
            if self._closed:
                raise Cancelled("the stream has ended")
            entry.model.sequences.open(sequence)
            self._by_id[step.sequence] = sequence
        return sequence


class PendingStep:
    """A request from submit() to the end of its last step."""

    __slots__ = ("_sequence", "done", "fed", "hold", "job", "number", "request", "step", "withdrawn")

    def __init__(self, sequence: "_Sequence", request: Request, step: Step, done: StepDone, hold: Hold) -> None:
        self.request = request
        self.step = step
        self.done = done
        self.hold = hold
        self.number = 0
        self.fed: Mapping[int, Array] = {}
        self.job: Job | None = None
        self.withdrawn: ServeError | None = None
        self._sequence = sequence

    def withdraw(self, error: ServeError) -> None:
        """End the request with `error` unless it has ended. The state stays as it was before the step in hand."""
        self._sequence.withdraw(self, error)


class _Sequence:
    """One sequence. Implements scheduling.sequences.Live."""

    def __init__(self, engine: Door, entry: Entry, state: State | None, *, handoff: bool) -> None:
        self.entry = entry
        self.state = state  # touched by the step in flight alone, or when there is none
        self.handoff = handoff
        self.evicted = False
        self.idle_since: float | None = None
        self._engine = engine
        self._lock = threading.Lock()
        self._waiting: deque[PendingStep] = deque()
        self._running: PendingStep | None = None
        self._held = False  # the running one waits for its caller to read

    def add(self, pending: PendingStep) -> bool:
        """Take a request; False: the sequence is evicted."""
        with self._lock:
            if self.evicted:
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
            self.evicted, self.state, self.idle_since = True, None, None
            return True

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
                self._held = False
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
                    break
                pending = self._running = self._waiting.popleft()
            if self._start(pending):
                return
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
        if not pending.hold(lambda: self._resume(pending)):
            self._resume(pending)

    def _resume(self, pending: PendingStep) -> None:
        """Start the next step of a request that was held, unless it was withdrawn meanwhile."""
        with self._lock:
            if not (self._held and self._running is pending):
                return
            self._held = False
            withdrawn = pending.withdrawn
        if withdrawn is not None:
            self._finish(pending, withdrawn)
            self._run_next()
        elif not self._start(pending):
            self._run_next()
        self._engine.flush()

    def _finish(self, pending: PendingStep, outcome: StepResult | ServeError) -> None:
        with self._lock:
            self._running = None
        self._deliver(pending, outcome)

    def _deliver(self, pending: PendingStep, outcome: StepResult | ServeError) -> None:
        if pending.step.end:
            self.free()
        pending.done(outcome)
