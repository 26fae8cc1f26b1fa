"""What both edges do with a Stream call: many requests at a time, each answered once, in the order of their arrival.

A stream has a window: so many requests, or bytes of them and of their answers, may be in hand at a time. At its end
nothing more is read, and HTTP/2 flow control holds the caller back. An answer leaves the window when it is sent, so a
caller that does not read its answers stops its own stream, and only that.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import DecodeError

from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.core import Clock, Result, StepResult, TensorSpec
from onnxserve_server.edge.answers import encode_answer, encode_handoff
from onnxserve_server.edge.codec import read_request, read_step
from onnxserve_server.edge.predict import unexpected
from onnxserve_server.edge.status import OK, Status, code_of, status_of
from onnxserve_server.engine.engine import Engine
from onnxserve_server.engine.entry import Entry
from onnxserve_server.errors import Cancelled, Draining, InvalidRequest, ServeError, Violation
from onnxserve_server.observing import Observer, Trace

logger = logging.getLogger(__name__)


class StreamCall(Protocol):
    """A bidirectional call at either edge.

    Attributes:
        deadline: seconds of Unix time; inf for none.
        metadata: what the caller sent with the call, names in lower case.
    """

    deadline: float
    metadata: Iterable[tuple[str, str | bytes]]

    def read(self) -> None:
        """Ask for the next message, from any thread. It comes by on_message(); one may be asked for at a time."""
        ...

    def send(self, message: bytes) -> None:
        """Send a message, from any thread; on_sent() says when the next may follow."""
        ...

    def end(self, status: Status | None) -> None:
        """End the call, once, while nothing is being sent; None: with OK."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """How much may be in hand at a time.

    Attributes:
        requests: of one stream.
        nbytes: of the requests and unsent answers of one stream; a single request may have more.
        all_requests: of all streams together. Each stream may go beyond it by the one request it waits for.
    """

    requests: int
    nbytes: int
    all_requests: int


class Budget(Protocol):
    """What a stream shares with all others; see edge.streams.Streams.

    Attributes:
        engine: runs the requests.
        clock: the engine's.
        window: how much may be in hand.
        observer: is told of each request, and of the end of each stream.
    """

    engine: Engine
    clock: Clock
    window: Window
    observer: Observer | None

    def take(self) -> None:
        """Note that a stream has one more request in hand."""
        ...

    def has_room(self, stream: "Stream") -> bool:
        """Whether a stream may read; where not, its read_on() is called when it may."""
        ...

    def give_back(self, count: int) -> None:
        """Note that a stream has so many requests fewer in hand."""
        ...

    def forget(self, stream: "Stream") -> None:
        """Note that a stream is over."""
        ...


class _Work(Protocol):
    """A job, or a step of a sequence."""

    def withdraw(self, error: ServeError) -> None:
        """End it with `error`, unless it has ended."""
        ...


class _Entry:
    """A request in hand, in its place among the answers. It has one, or one for each of its steps."""

    __slots__ = ("answers", "complete", "nbytes", "request_id", "work")

    def __init__(self, nbytes: int) -> None:
        self.request_id = ""
        self.nbytes = nbytes
        self.work: _Work | None = None
        self.answers: deque[bytes] = deque()
        self.complete = False


class Stream:
    """One call. on_...() are for the edge; they must not be called while another one of on_message() runs."""

    def __init__(self, call: StreamCall, streams: Budget) -> None:
        self._call = call
        self._streams = streams
        self._opened = streams.clock()
        self._lock = threading.Lock()  # guards what follows; never held while calling into the engine or the edge
        self._sequences = streams.engine.sequences()
        self._held: list[Callable[[], None]] = []
        self._handoffs: list[tuple[str, Entry, Sequence[tuple[TensorSpec, Array]]]] | None = None
        self._entries: deque[_Entry] = deque()
        self._nbytes = 0
        self._reading = False
        self._sending = False
        self._half_closed = False
        self._stopping = False
        self._dropped = False
        self._gone: ServeError | None = None
        self._ended = False

    def on_message(self, message: bytes) -> None:
        """Take a message. Never raises."""
        with self._lock:
            self._reading = False
            if self._ended or (self._stopping and not self._sequences.must_stay):
                self._dropped = True  # the call will not end well: so the caller knows that it was not run
                return
        try:
            wire = inference.StreamRequest.FromString(message)
        except DecodeError as error:
            told = f"the message is no StreamRequest: {error}"
            self._refuse(message, InvalidRequest([Violation("request", told)]))
        else:
            match wire.WhichOneof("kind"):
                case "predict":
                    self._predict(wire, len(message))
                case "cancel":
                    self._cancel(wire.cancel.request_id, message)
                case _:
                    self._refuse(message, InvalidRequest([Violation("kind", "it is empty: set predict or cancel")]))
        self.read_on()

    def on_half_close(self) -> None:
        """Note that the caller sends no more."""
        with self._lock:
            self._reading = False
            self._half_closed = True
        self._pump()

    def on_sent(self) -> None:
        """Note that the last message is out, or lost."""
        with self._lock:
            self._sending = False
        self._pump()

    def on_gone(self) -> None:
        """Note that the caller left: its work goes with it."""
        self._give_up(Cancelled("the caller left"))

    def stop(self) -> None:
        """Read no more; end when what was read is answered."""
        with self._lock:
            self._stopping = True
        self._pump()

    def abort(self) -> None:
        """End now."""
        self._give_up(Draining("the server stopped before this was answered"))

    def read_on(self) -> None:
        """Ask for the next message, unless the window is full."""
        window = self._streams.window
        with self._lock:
            if self._reading or self._half_closed or self._ended or self._gone is not None:
                return
            if self._stopping and not self._sequences.must_stay:
                return
            if len(self._entries) >= window.requests or self._nbytes >= window.nbytes:
                return
            if not self._streams.has_room(self):
                return
            self._reading = True
        self._call.read()

    def answer(self, entry: _Entry, message: bytes, *, final: bool = True) -> None:
        """Put an answer in its place, and send what is due."""
        with self._lock:
            self._nbytes += len(message)
            entry.answers.append(message)
            if final:
                self._nbytes -= entry.nbytes
                entry.complete = True
                entry.work = None
        self._pump()

    def hold(self, resume: Callable[[], None]) -> bool:
        """Whether a request of several steps has to wait until its caller has read more; `resume` is called then."""
        with self._lock:
            if self._nbytes < self._streams.window.nbytes or self._gone is not None:
                return False
            self._held.append(resume)
            return True

    def _predict(self, wire: inference.StreamRequest, nbytes: int) -> None:
        entry = self._add(nbytes)
        entry.request_id = wire.predict.request_id
        answer = self._answer_to(entry, wire.predict.model, wire.predict.version)
        work: _Work
        try:
            request, step = read_request(wire.predict, self._call.deadline, self._streams.clock), read_step(wire)
            if answer.trace is not None:
                answer.trace.mark("admit")
                request = request._replace(trace=answer.trace)
            if step is None:
                work = self._streams.engine.submit(request, answer)
            else:
                work = self._sequences.submit(request, step, answer, self.hold)
        except ServeError as error:
            answer(error)
        except Exception:
            answer(unexpected(entry.request_id))
        else:
            with self._lock:
                gone = self._gone
                if not entry.complete:
                    entry.work = work
            if gone is not None:
                work.withdraw(gone)

    def _cancel(self, request_id: str, message: bytes) -> None:
        if not request_id:
            self._refuse(message, InvalidRequest([Violation("cancel.request_id", "it is required")]))
            return
        with self._lock:
            works = [entry.work for entry in self._entries if entry.request_id == request_id]
        for work in works:
            if work is not None:
                work.withdraw(Cancelled("the caller gave it up"))

    def _refuse(self, message: bytes, error: ServeError) -> None:
        self._answer_to(self._add(len(message)))(error)

    def _answer_to(self, entry: _Entry, model: str = "", version: str = "") -> "_Answer":
        observer = self._streams.observer
        if observer is None:
            return _Answer(self, entry)
        trace = observer.begin(self._call.metadata, "Stream", arrived := self._streams.clock())
        return _ObservedAnswer(
            self, entry, observer=observer, model=model, version=version, arrived=arrived, trace=trace
        )

    def _add(self, nbytes: int) -> _Entry:
        entry = _Entry(nbytes)
        self._streams.take()
        with self._lock:
            self._entries.append(entry)
            self._nbytes += nbytes
        return entry

    def _give_up(self, error: ServeError) -> None:
        with self._lock:
            if self._ended or self._gone is not None:
                return
            self._gone = error
            works = [entry.work for entry in self._entries if entry.work is not None]
        for work in works:
            work.withdraw(error)
        self._pump()

    def _next_handoff(self) -> bytes | None:
        """Return the message with the state of a sequence that the caller wants back; None: there is none left."""
        if self._handoffs is None:
            self._handoffs = self._sequences.handoffs()
        if not self._handoffs:
            return None
        name, entry, state = self._handoffs.pop()
        return encode_handoff(name, entry.model.spec, state)

    def _pump(self) -> None:
        """Send the next answer if its turn has come, or end the call when nothing is left to do."""
        status: Status | None = None
        resumed: list[Callable[[], None]] = []
        with self._lock:
            if self._sending or self._ended:
                return
            message, left = self._next_answer()
            if message is not None:
                self._sending = True
                if self._held and self._nbytes < self._streams.window.nbytes:
                    resumed, self._held = self._held, []
            elif self._gone is not None:
                self._ended, status, left = True, status_of(self._gone), len(self._entries)
                self._entries.clear()
            elif self._entries:
                return
            elif self._half_closed and not self._dropped:
                self._ended = True
            elif self._stopping and not self._sequences.must_stay:
                self._ended, status = True, status_of(Draining("the server is about to stop"))
            else:
                return
        self._streams.give_back(left)
        if message is not None:
            self._call.send(message)
            self.read_on()
            for resume in resumed:
                resume()
        else:
            self._sequences.close()
            self._streams.forget(self)
            self._call.end(status)
            if self._streams.observer is not None:
                code = OK if status is None else status.code.name
                self._streams.observer.ended("Stream", code, self._streams.clock() - self._opened)

    def _next_answer(self) -> tuple[bytes | None, int]:
        """Take the next message to send, and how many requests it leaves fewer in hand; None: there is none now."""
        if self._gone is not None:
            return None, 0
        if not self._entries:
            ends_well = self._half_closed and not self._dropped
            stops = self._stopping and not ends_well and not self._sequences.must_stay
            return (self._next_handoff() if stops else None), 0
        entry = self._entries[0]
        if not entry.answers:
            return None, 0
        message = entry.answers.popleft()
        self._nbytes -= len(message)
        if entry.answers or not entry.complete:
            return message, 0
        self._entries.popleft()
        return message, 1


class _Answer:
    """Encodes the outcomes of one request for its stream. A class, not a closure: one is made for every request."""

    __slots__ = ("_entry", "_stream")

    trace: Trace | None = None

    def __init__(self, stream: Stream, entry: _Entry) -> None:
        self._stream = stream
        self._entry = entry

    def __call__(self, outcome: Result | StepResult | ServeError) -> None:
        self._put(outcome)

    def _put(self, outcome: Result | StepResult | ServeError) -> Result | StepResult | ServeError:
        """Put the outcome in its place among the answers; return it, or the error that had to stand in for it."""
        entry = self._entry
        try:
            message = encode_answer(outcome, entry.request_id)
        except Exception:
            outcome = unexpected(entry.request_id)
            message = encode_answer(outcome, entry.request_id)
        self._stream.answer(entry, message, final=not isinstance(outcome, StepResult) or outcome.final)
        return outcome


class _ObservedAnswer(_Answer):
    """The same, and an observer is told. Implements observing.Asked."""

    __slots__ = ("_observer", "arrived", "model", "request_id", "trace", "version")

    method = "Stream"

    def __init__(
        self,
        stream: Stream,
        entry: _Entry,
        *,
        observer: Observer,
        model: str,
        version: str,
        arrived: float,
        trace: Trace | None,
    ) -> None:
        super().__init__(stream, entry)
        self._observer = observer
        self.request_id = entry.request_id
        self.model = model
        self.version = version
        self.arrived = arrived
        self.trace = trace

    def __call__(self, outcome: Result | StepResult | ServeError) -> None:
        outcome = self._put(outcome)
        if isinstance(outcome, ServeError):
            self._observer.answered(self, code_of(outcome), None)
        elif isinstance(outcome, Result):
            self._observer.answered(self, OK, outcome)
        elif outcome.final:
            self._observer.answered(self, OK, outcome.result)
