"""The sequences of a stream: state that the server keeps between its requests.

A layer above the batcher, which knows nothing of it. A sequence has at most one step in flight, while steps of
different sequences share runs like any other jobs.
"""

import math
import threading
from typing import Protocol

from onnxserve_server.core import Request, Snapshot, Step
from onnxserve_server.engine.model import ServedModel
from onnxserve_server.engine.seam import Handoff
from onnxserve_server.engine.sequence import Hold, LiveSequence, PendingStep, StepDone
from onnxserve_server.engine.servable import Servable
from onnxserve_server.engine.table import Table
from onnxserve_server.errors import (
    Cancelled,
    Draining,
    InvalidRequest,
    ModelStopped,
    SequenceEvicted,
    SequencesFull,
    ServeError,
    Violation,
)
from onnxserve_server.scheduling.services import Services
from onnxserve_server.spec import ModelSpec

_MAX_STEPS = 10_000
_MAX_EVICTED = 50_000  # names of one stream


class SequenceEngine(Protocol):
    """What sequences need of the engine."""

    services: Services
    table: Table
    draining: bool


class StreamSequences:
    """The sequences of one stream, by the names that its caller gives them. submit() is for one thread at a time."""

    def __init__(self, engine: SequenceEngine) -> None:
        self._engine = engine
        self._by_id: dict[str, LiveSequence] = {}
        self._evicted: dict[str, str] = {}  # names whose caller does not know yet, and why
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, request: Request, step: Step, done: StepDone, hold: Hold) -> PendingStep:
        """Take a step, to be run after those of its sequence before it. `done` may be called before this returns.

        Raises:
            InvalidRequest: the model has no state, or the step does not fit its sequence, or it has too many steps.
            SequenceEvicted: the sequence's state is gone: it was idle for too long, or its model was stopped.
            SequencesFull: it would be one more than may be live.
            ModelNotFound, ModelStopped: as Engine.submit.
            Draining: it would start a sequence.
        """
        if step.max_steps is not None and not 0 < step.max_steps <= _MAX_STEPS:
            raise InvalidRequest([Violation("steps.max", f"must be between 1 and {_MAX_STEPS}, not {step.max_steps}")])
        services = self._engine.services
        if request.deadline == math.inf != services.default_timeout:
            request = request._replace(deadline=services.clock() + services.default_timeout)
        sequence = self._find(request, step) if step.sequence else self._nameless(request)
        if step.end:
            self._forget(step.sequence)
        pending = PendingStep(sequence, request, step, done, hold)
        if not sequence.add(pending):
            raise self._gone(request, step.sequence)
        return pending

    def end(self, name: str) -> None:
        """End a sequence whose last step was refused. Steps before that wait or run go on."""
        sequence = self._forget(name)
        if sequence is not None:
            sequence.end()

    def handoffs(self) -> list[Handoff]:
        """Return the state of each live sequence that is to be handed over. No step may be in flight."""
        return [
            Handoff(name, sequence.model.spec, sequence.model.states.described(state))
            for name, sequence in list(self._by_id.items())
            if sequence.handoff and (state := sequence.state) is not None  # read once: an eviction may come meanwhile
        ]

    @property
    def must_stay(self) -> bool:
        """Whether a sequence is live that would be lost if the stream ended."""
        return any(not sequence.handoff for sequence in list(self._by_id.values()))

    def close(self) -> None:
        """Free all sequences. Steps that wait or run go on; the caller of submit() has to withdraw them."""
        with self._lock:
            self._closed = True
            sequences, self._by_id = list(self._by_id.values()), {}
        for sequence in sequences:
            sequence.free()

    def _find(self, request: Request, step: Step) -> LiveSequence:
        name = step.sequence
        sequence = self._by_id.get(name)
        if sequence is None:
            if name in self._evicted and step.state is None:
                raise self._gone(request, name)
            return self._open(request, step)
        spec = sequence.model.spec
        if request.model != spec.name:
            raise InvalidRequest([Violation("predict.model", f"sequence {name!r} is of model {spec.name!r}")])
        if request.version not in ("", spec.version):
            message = f"sequence {name!r} is of version {spec.version!r} of the model"
            raise InvalidRequest([Violation("predict.version", message)])
        if step.state is not None:
            if not sequence.is_fresh:
                message = "the sequence is live, and a state can only start one"
                raise InvalidRequest([Violation("sequence.state", message)])
            sequence.state = sequence.model.states.read(step.state)
        return sequence

    def _nameless(self, request: Request) -> LiveSequence:
        """Return a sequence for one request of several steps, whose state goes with it."""
        model = self._resolve(request)
        if not isinstance(model, ServedModel):
            raise InvalidRequest([Violation("steps", f"model {request.model!r} cannot run several steps")])
        return LiveSequence(model, self._engine.services, None, handoff=True, find_successor=self._successor)

    def _resolve(self, request: Request, state: Snapshot | None = None) -> Servable:
        table = self._engine.table
        if self._engine.draining:
            raise Draining("the server is about to stop")
        version = request.version
        if not version and state is not None and table.find(request.model, state.version) is not None:
            version = state.version  # also where a newer one is there: the state is nothing to that
        return table.resolve(request.model, version)

    def _open(self, request: Request, step: Step) -> LiveSequence:
        model, name = self._resolve(request, step.state), step.sequence
        if not (isinstance(model, ServedModel) and model.spec.state):
            message = f"model {request.model!r} has no state to keep; leave the sequence out"
            raise InvalidRequest([Violation("sequence", message)])
        state = None if step.state is None else model.states.read(step.state)
        sequence = LiveSequence(
            model,
            self._engine.services,
            state,
            handoff=step.handoff,
            on_evicted=lambda gone, reason: self._note_eviction(name, gone, reason),
            find_successor=self._successor,
        )
        with self._lock:  # close() may come from another thread
            if self._closed:
                raise Cancelled("the stream has ended")
            if len(self._evicted) >= _MAX_EVICTED and name not in self._evicted:
                message = f"{_MAX_EVICTED} sequences of this stream were evicted; end them, or open another stream"
                raise SequencesFull(message)
            try:
                model.sequences.open(sequence)
            except ModelStopped:
                if not sequence.follow(model.sequences):  # it was loaded again since we looked
                    raise
            self._evicted.pop(name, None)
            self._by_id[name] = sequence
        return sequence

    def _successor(self, stopped: ServedModel) -> ServedModel | None:
        """Return what was loaded in the place of a model, with the same inputs and outputs; None: nothing was."""
        spec = stopped.spec
        try:
            model = self._engine.table.resolve(spec.name, spec.version)
        except ServeError:
            return None
        if model is stopped or not isinstance(model, ServedModel) or _interface(model.spec) != _interface(spec):
            return None
        return model

    def _gone(self, request: Request, name: str) -> ServeError:
        """Return the error of a step whose sequence was evicted."""
        try:
            self._engine.table.resolve(request.model, request.version)
        except ServeError as error:  # while the model is stopped, that is the reason
            return error
        reason = self._evicted.get(name, "it was evicted")
        return SequenceEvicted(f"the state of sequence {name!r} is gone: {reason}", sequence=name)

    def _forget(self, name: str) -> LiveSequence | None:
        """Free a name; return the sequence that had it, unless that is evicted."""
        with self._lock:  # an eviction may come from another thread
            self._evicted.pop(name, None)
            return self._by_id.pop(name, None)

    def _note_eviction(self, name: str, sequence: LiveSequence, reason: str) -> None:
        with self._lock:
            if self._by_id.get(name) is sequence:
                del self._by_id[name]
                self._evicted[name] = reason


def _interface(spec: ModelSpec) -> tuple[object, ...]:
    """Return what must be the same in two models for one to go on with the states of the other."""
    return spec.inputs, spec.outputs, [(pair.input, pair.output) for pair in spec.state], spec.feedback
