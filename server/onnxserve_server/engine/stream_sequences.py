"""The sequences of a stream: state that the server keeps between its requests.

A layer above the batcher, which knows nothing of it. A sequence has at most one step in flight, while steps of
different sequences share runs like any other jobs.
"""

import threading
from collections.abc import Sequence

from onnxserve.tensor import Array
from onnxserve_server.core import Request, Snapshot, Step
from onnxserve_server.engine.entry import Entry
from onnxserve_server.engine.sequence import Door, Hold, LiveSequence, PendingStep, StepDone
from onnxserve_server.errors import Cancelled, Draining, InvalidRequest, SequenceEvicted, SequencesFull, Violation
from onnxserve_server.spec import TensorSpec

_MOST_STEPS = 10_000
_MOST_EVICTED = 50_000  # names of one stream


class SequenceSet:
    """The sequences of one stream, by the names that its caller gives them. submit() is for one thread at a time."""

    def __init__(self, engine: Door) -> None:
        self._engine = engine
        self._by_id: dict[str, LiveSequence] = {}
        self._evicted: set[str] = set()  # names whose next step has to be told
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, request: Request, step: Step, done: StepDone, hold: Hold) -> PendingStep:
        """Take a step, to be run after those of its sequence before it. `done` may be called before this returns.

        Raises:
            InvalidRequest: the model has no state, or the step does not fit its sequence, or it has too many steps.
            SequenceEvicted: the sequence was idle for too long.
            SequencesFull: it would be one more than may be live.
            ModelNotFound: as Engine.submit.
            Draining: it would start a sequence.
        """
        if step.most is not None and not 0 < step.most <= _MOST_STEPS:
            raise InvalidRequest([Violation("steps.max", f"{step.most} is not from 1 to {_MOST_STEPS}")])
        sequence = self._find(request, step) if step.sequence else self._nameless(request)
        if step.end:
            self._forget(step.sequence)
        pending = PendingStep(sequence, request, step, done, hold)
        if not sequence.add(pending):
            raise _evicted(step.sequence)
        return pending

    def end(self, name: str) -> None:
        """End a sequence whose last step was refused. Steps before that wait or run go on."""
        sequence = self._forget(name)
        if sequence is not None:
            sequence.end()

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
        return any(not sequence.handoff for sequence in list(self._by_id.values()))

    def close(self) -> None:
        """Free all sequences. Who submitted steps that wait or run has to withdraw them."""
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
                raise _evicted(name)
            return self._open(request, step)
        spec = sequence.entry.model.spec
        if request.model != spec.name:
            raise InvalidRequest([Violation("predict.model", f"sequence {name!r} is of model {spec.name!r}")])
        if request.version not in ("", spec.version):
            told = f"sequence {name!r} is of version {spec.version!r} of the model"
            raise InvalidRequest([Violation("predict.version", told)])
        if step.state is not None:
            if not sequence.is_fresh:
                told = "the sequence is live, and a state can only start one"
                raise InvalidRequest([Violation("sequence.state", told)])
            sequence.state = sequence.entry.states.read(step.state)
        return sequence

    def _nameless(self, request: Request) -> LiveSequence:
        """Return a sequence for one request of several steps, whose state goes with it."""
        return LiveSequence(self._engine, self._entry(request), None, handoff=True)

    def _entry(self, request: Request, state: Snapshot | None = None) -> Entry:
        if self._engine.draining:
            raise Draining("the server is about to stop")
        version = request.version
        if not version and state is not None and self._engine.known(request.model, state.version) is not None:
            version = state.version  # also where a newer one is there: the state is nothing to that
        return self._engine.entry(request.model, version)

    def _open(self, request: Request, step: Step) -> LiveSequence:
        entry, name = self._entry(request, step.state), step.sequence
        if not entry.model.spec.state:
            told = f"model {request.model!r} has no state to keep; leave the sequence out"
            raise InvalidRequest([Violation("sequence", told)])
        state = None if step.state is None else entry.states.read(step.state)
        sequence = LiveSequence(
            self._engine, entry, state, handoff=step.handoff, on_evicted=lambda gone: self._note_eviction(name, gone)
        )
        with self._lock:  # close() may come from another thread
            if self._closed:
                raise Cancelled("the stream has ended")
            if len(self._evicted) >= _MOST_EVICTED and name not in self._evicted:
                told = f"{_MOST_EVICTED} sequences of this stream were evicted; end them, or open another stream"
                raise SequencesFull(told)
            entry.model.sequences.open(sequence)
            self._evicted.discard(name)
            self._by_id[name] = sequence
        return sequence

    def _forget(self, name: str) -> LiveSequence | None:
        """Free a name; return the sequence that had it, unless that is evicted."""
        with self._lock:  # an eviction may come from another thread
            self._evicted.discard(name)
            return self._by_id.pop(name, None)

    def _note_eviction(self, name: str, sequence: LiveSequence) -> None:
        with self._lock:
            if self._by_id.get(name) is sequence:
                del self._by_id[name]
                self._evicted.add(name)


def _evicted(name: str) -> SequenceEvicted:
    return SequenceEvicted(f"the state of sequence {name!r} is gone: it was idle for too long", sequence=name)
