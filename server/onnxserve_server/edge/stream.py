"""What both edges do with a Stream call: many requests at a time, each answered once, in the order of their arrival.

A stream has a window: so many requests, or bytes of them and of their answers, may be in flight at a time. At its end
nothing more is read, and HTTP/2 flow control holds the caller back. An answer leaves the window when it is sent, so a
caller that does not read its answers stops its own stream, and only that.
"""

import threading
from collections.abc import Callable

from google.protobuf.message import DecodeError

from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.edge.calls import StreamCall
from onnxserve_server.edge.inflight import Inflight, InflightRequest, StreamBudget
from onnxserve_server.edge.onnxserve_v1 import read_request, read_step
from onnxserve_server.edge.predict import unexpected
from onnxserve_server.edge.replies import Answer, ObservedAnswer, encode_handoff
from onnxserve_server.edge.status import OK, status_of
from onnxserve_server.engine.seam import Cancellable, Handoff, Inference
from onnxserve_server.errors import Cancelled, CutOff, Draining, InvalidRequest, ServeError, Violation
from onnxserve_server.observing import Observer

_SERVER_STOPS = "the server is about to stop"


class Stream:
    """One call. on_...() are for the edge; they must not be called while another one of on_message() runs."""

    def __init__(
        self,
        call: StreamCall,
        engine: Inference,
        budget: StreamBudget,
        observer: Observer | None,
        on_over: Callable[["Stream"], None],
    ) -> None:
        self._call = call
        self._engine = engine
        self._budget = budget
        self._observer = observer
        self._on_over = on_over
        self._opened = engine.clock()
        self._sequences = engine.sequences()
        self._lock = threading.Lock()  # guards what follows; never held while calling into the engine or the edge
        self._hand = Inflight(budget.window)
        self._handoffs: list[Handoff] | None = None
        self._reading = False
        self._sending = False
        self._half_closed = False
        self._stopping = ""  # why no more requests are taken
        self._dropped = False  # a request was left unanswered, so the call cannot end well
        self._gone: ServeError | None = None
        self._cut: CutOff | None = None
        self._ended = False

    def on_message(self, message: bytes) -> None:
        """Take a message. Never raises."""
        wire, fault = _decoded(message)
        if fault is None and wire.HasField("cancel"):
            self._cancel(wire.cancel.request_id)
        elif (place := self._add(len(message))) is not None:
            if fault is None:
                self._predict(place, wire)
            else:
                self._answer_to(place)(InvalidRequest([fault]))
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

    def stop(self, why: str = _SERVER_STOPS) -> None:
        """Take no more requests; end when those in flight are answered, and tell the caller why."""
        with self._lock:
            self._stopping = why
        self._pump()

    def cut_off(self) -> None:
        """Leave what is in flight, and end with the states that are to be handed over."""
        with self._lock:
            self._stopping, self._cut = _SERVER_STOPS, CutOff("the server stopped before this was answered")
            works = self._hand.works()
        for work in works:
            work.withdraw(self._cut)
        self._pump()

    def abort(self) -> None:
        """End now."""
        self._give_up(Draining("the server stopped before this was answered"))

    def read_on(self) -> None:
        """Ask for the next message, unless the window is full."""
        with self._lock:
            if self._reading or self._half_closed or self._ended or self._gone is not None:
                return
            if self._hand.places:
                if self._hand.is_full or not self._budget.has_room(self):
                    return
            elif self._is_closing:  # with something in flight it reads on: that may still be cancelled
                return
            self._reading = True
        self._call.read()

    def answer(self, place: InflightRequest, message: bytes, *, final: bool = True) -> None:
        """Put an answer in its place, and send what is due."""
        with self._lock:
            self._hand.put(place, message, final=final)
        self._pump()

    def leave(self, place: InflightRequest) -> None:
        """Leave a request unanswered, or without its last answers. Answers behind it would be taken for its own."""
        with self._lock:
            self._dropped = True
            count = self._hand.leave(place)
        if count is None:
            self.abort()
        else:
            self._budget.give_back(count)
            self._pump()

    def hold(self, place: InflightRequest, resume: Callable[[], None]) -> bool:
        """Whether a request of several steps has to wait until its caller has read more; `resume` is called then."""
        with self._lock:
            return self._gone is None and self._hand.hold(place, resume)

    @property
    def _is_closing(self) -> bool:
        """Whether no more requests are taken."""
        return bool(self._stopping) and not self._sequences.must_stay

    def _add(self, nbytes: int) -> InflightRequest | None:
        """Take a request in flight; None: the call ends without it, by which its caller knows that it was not run."""
        with self._lock:  # the one that stop() takes: no state is handed over while a step of it is on its way
            self._reading = False
            if self._ended or self._gone is not None or self._is_closing:
                self._dropped = True
                return None
            self._budget.take()
            return self._hand.add(nbytes)

    def _predict(self, place: InflightRequest, wire: inference.StreamRequest) -> None:
        place.request_id = wire.predict.request_id
        answer = self._answer_to(place, wire.predict.model, wire.predict.version)
        work: Cancellable
        try:
            request, step = read_request(wire.predict, self._call.deadline, self._engine.clock), read_step(wire)
            if answer.trace is not None:
                answer.trace.mark("admit")
                request = request._replace(trace=answer.trace)
            if step is None:
                work = self._engine.submit(request, answer)
            else:
                work = self._sequences.submit(request, step, answer, answer.hold)
        except Exception as raised:
            error = raised if isinstance(raised, ServeError) else unexpected(place.request_id)
            if wire.sequence.end:
                self._sequences.end(wire.sequence.id)
            if not (isinstance(error, Draining) and self._drop_last()):
                answer(error)
        else:
            with self._lock:
                over = self._gone or self._cut
                if not place.complete:
                    place.work = work
            if over is not None:
                work.withdraw(over)

    def _cancel(self, request_id: str) -> None:
        with self._lock:
            self._reading = False
            works = self._hand.works(request_id)
        for work in works:
            work.withdraw(Cancelled("the caller gave it up"))

    def _drop_last(self) -> bool:
        """Leave the newest request to another server: the engine refuses it. False: the call goes on, for sequences."""
        with self._lock:
            if self._sequences.must_stay:
                return False
            self._stopping, self._dropped = _SERVER_STOPS, True
            if self._ended:
                return True
            self._hand.drop_last()
        self._budget.give_back(1)
        self._pump()
        return True

    def _answer_to(self, place: InflightRequest, model: str = "", version: str = "") -> Answer:
        observer = self._observer
        if observer is None:
            return Answer(self, place)
        trace = observer.begin(self._call.metadata, arrived := self._engine.clock())
        return ObservedAnswer(
            self, place, observer=observer, model=model, version=version, arrived=arrived, trace=trace
        )

    def _give_up(self, error: ServeError) -> None:
        with self._lock:
            if self._ended or self._gone is not None:
                return
            self._gone = error
            works = self._hand.works()
        for work in works:
            work.withdraw(error)
        self._pump()

    def _pump(self) -> None:
        """Send the next answer if its turn has come, or end the call when nothing is left to do."""
        error: ServeError | None = None
        more = False
        with self._lock:
            if self._sending or self._ended:
                return
            message, left = self._next_message()
            if message is not None:
                self._sending = True
                more = self._hand.next_is_due
            elif self._gone is not None:
                self._ended, error, left = True, self._gone, self._hand.clear()
            elif not self._hand.places:
                if self._half_closed and not self._dropped:
                    self._ended = True
                elif self._is_closing:
                    self._ended, error = True, Draining(self._stopping)
            ended = self._ended
            resumed = self._hand.resumable()
        if left:
            self._budget.give_back(left)
        if message is not None:
            self._call.send(message, more=more)
            self.read_on()
        elif ended:
            self._end(error)
        for resume in resumed:
            resume()

    def _next_message(self) -> tuple[bytes | None, int]:
        """Take the next message to send, and how many requests it leaves fewer in flight; None: there is none now."""
        if self._gone is not None:
            return None, 0
        if self._hand.places:
            return self._hand.take()
        ends_well = self._half_closed and not self._dropped
        return (self._next_handoff() if self._is_closing and not ends_well else None), 0

    def _next_handoff(self) -> bytes | None:
        """Return the message with the state of a sequence that the caller wants back; None: there is none left."""
        if self._handoffs is None:
            self._handoffs = self._sequences.handoffs()
        if not self._handoffs:
            return None
        return encode_handoff(self._handoffs.pop())

    def _end(self, error: ServeError | None) -> None:
        status = None if error is None else status_of(error)
        self._sequences.close()
        self._on_over(self)
        self._call.end(status)
        if self._observer is not None:
            code = OK if status is None else status.code.name
            self._observer.on_call_end("Stream", code, self._engine.clock() - self._opened)


def _decoded(message: bytes) -> tuple[inference.StreamRequest, Violation | None]:
    """Return what came, and what is wrong with it as a message."""
    try:
        wire = inference.StreamRequest.FromString(message)
    except DecodeError as error:
        return inference.StreamRequest(), Violation("request", f"not a valid StreamRequest: {error}")
    match wire.WhichOneof("kind"):
        case "predict":
            return wire, None
        case "cancel":
            return wire, None if wire.cancel.request_id else Violation("cancel.request_id", "it is required")
        case _:
            return wire, Violation("kind", "it is empty: set predict or cancel")
