"""A streaming call of either edge: many requests at a time, each answered once, in the order of their arrival.

A stream has a window: so many requests, or bytes of them and of their replies, may be in flight at a time. Once it is
full nothing more is read, and HTTP/2 flow control holds the caller back. A reply leaves the window when it is sent, so
a caller that does not read its replies stops its own stream, and only that.

stream_state.py has the phases in which a stream ends.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from onnxserve_server.edge.calls import StreamCall
from onnxserve_server.edge.codec import Cancellation, StreamCodec, StreamedRequest
from onnxserve_server.edge.inflight import Inflight, InflightRequest, StreamBudget
from onnxserve_server.edge.replies import ObservedReply, Reply
from onnxserve_server.edge.status import OK, status_of, unexpected
from onnxserve_server.edge.stream_state import CUT_SHORT, SERVER_STOPS, Phase, StreamState
from onnxserve_server.engine.seam import Cancellable, Handoff, Inference
from onnxserve_server.errors import Cancelled, CutOff, Draining, ServeError
from onnxserve_server.observing import Observer

# Python 3.11 takes long to find a member of an enum, and these are looked up for every request.
_ABORTING, _ENDED = Phase.ABORTING, Phase.ENDED


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamMethod:
    """A streaming method, as all of its calls share it.

    Attributes:
        name: the method's, for the observer.
        codec: reads and writes its messages.
        engine: runs the requests.
        budget: bounds what all streams have in flight.
        observer: sees each request, and the end of each stream; None: nobody does.
    """

    name: str
    codec: StreamCodec
    engine: Inference
    budget: StreamBudget
    observer: Observer | None = None


class Stream:
    """One call. Implements calls.StreamEvents; on_message() must not be called while it runs."""

    def __init__(self, call: StreamCall, method: StreamMethod, on_over: Callable[["Stream"], None]) -> None:
        self._call = call
        self._method = method
        self._codec = method.codec
        self._engine = method.engine
        self._budget = method.budget
        self._on_over = on_over
        self._opened = method.engine.clock()
        self._sequences = sequences = method.engine.sequences()
        self._lock = threading.Lock()  # guards the fields below; never held while calling into the engine or the edge
        self._state = StreamState(lambda: sequences.must_stay)
        self._inflight = Inflight(method.budget.window)
        self._handoffs: list[Handoff] | None = None
        self._reading = False  # a message has been asked for
        self._sending = False

    @property
    def phase(self) -> Phase:
        """The phase it is in."""
        return self._state.phase

    def on_message(self, message: bytes) -> None:
        """Take a message. Never raises."""
        decoded: StreamedRequest | Cancellation | ServeError
        try:
            decoded = self._codec.decode_message(message)
        except ServeError as error:
            decoded = error
        if isinstance(decoded, Cancellation):
            self._cancel(decoded.request_id)
        elif (request := self._add(len(message))) is not None:
            if isinstance(decoded, ServeError):
                self._reply_to(request)(decoded)
            else:
                self._submit(request, decoded)
        self.read_on()

    def on_half_close(self) -> None:
        """Note that the caller sends no more."""
        with self._lock:
            self._reading = False
            self._state.half_closed = True
        self._pump()

    def on_sent(self) -> None:
        """Note that the last message is out, or lost."""
        with self._lock:
            self._sending = False
        self._pump()

    def on_gone(self) -> None:
        """Note that the caller left: its requests are withdrawn."""
        self._give_up(Cancelled("the caller left"))

    def stop(self, why: str = SERVER_STOPS) -> None:
        """Take no more requests; end when those in flight are answered, and say why."""
        with self._lock:
            self._state.enter_stopping(why)
        self._pump()

    def cut_off(self) -> None:
        """Leave the requests in flight unanswered, and end with the states that are to be handed over."""
        error = CutOff(CUT_SHORT)
        with self._lock:
            is_cut = self._state.enter_cut_off(error, bool(self._inflight.requests))
            submitted = self._inflight.submitted() if is_cut else []
        for each in submitted:
            each.withdraw(error)
        self._pump()

    def abort(self) -> None:
        """End now."""
        self._give_up(Draining(CUT_SHORT))

    def read_on(self) -> None:
        """Ask for the next message, unless the window is full."""
        with self._lock:
            if self._reading or self._state.half_closed or self._state.is_over:
                return
            if self._inflight.requests:
                if self._inflight.is_full or not self._budget.has_room(self):
                    return
            elif not self._state.takes_requests:  # with something in flight it reads on: that may still be cancelled
                return
            self._reading = True
        self._call.read()

    def reply(self, request: InflightRequest, message: bytes, *, final: bool = True) -> None:
        """Add a reply to a request; send it if its turn has come."""
        with self._lock:
            self._inflight.put(request, message, final=final)
            grown = self._inflight.grown() if self._sending else 0
        if grown:
            self._budget.grow(grown)
        self._pump()

    def leave(self, request: InflightRequest) -> None:
        """Leave a request unanswered, or without its last replies. Replies behind it would be taken for its own."""
        with self._lock:
            self._state.has_dropped = True
            count = self._inflight.leave(request)
            freed = 0 if count is None else -self._inflight.grown()
        if count is None:
            self.abort()
        else:
            self._budget.give_back(count, freed)
            self._pump()

    def hold(self, request: InflightRequest, resume: Callable[[], None]) -> bool:
        """Whether a request of several steps has to wait until its caller has read more; `resume` is called then."""
        with self._lock:
            return not self._state.is_over and self._inflight.hold(request, resume)

    def _add(self, nbytes: int) -> InflightRequest | None:
        """Return a new request in flight; None: the call ends without it, so that its caller knows it was not run."""
        with self._lock:  # the one that stop() takes: no state is handed over while a step of it is on its way
            self._reading = False
            if not self._state.takes_requests:
                self._state.has_dropped = True
                return None
            request = self._inflight.add(nbytes)
            self._budget.take(self._inflight.grown())
            return request

    def _submit(self, request: InflightRequest, decoded: StreamedRequest) -> None:
        request.request_id = decoded.request_id
        reply = self._reply_to(request, decoded.model, decoded.version)
        submitted: Cancellable
        try:
            to_run, step = decoded.read(self._call.deadline, self._engine.clock)
            if reply.trace is not None:
                reply.trace.mark("admit")
                to_run = to_run._replace(trace=reply.trace)
            if step is None:
                submitted = self._engine.submit(to_run, reply)
            else:
                submitted = self._sequences.submit(to_run, step, reply, reply.hold)
        except Exception as raised:
            error = raised if isinstance(raised, ServeError) else unexpected(request.request_id)
            if sequence := decoded.ended_sequence:
                self._sequences.end(sequence)
            if not (isinstance(error, Draining) and self._drop_last()):
                reply(error)
        else:
            with self._lock:
                over = self._state.error
                if not request.complete:
                    request.submitted = submitted
            if over is not None:
                submitted.withdraw(over)

    def _cancel(self, request_id: str) -> None:
        with self._lock:
            self._reading = False
            submitted = self._inflight.submitted(request_id)
        for each in submitted:
            each.withdraw(Cancelled("the caller gave it up"))

    def _drop_last(self) -> bool:
        """Leave the newest request to another server: the engine drains. False: the call goes on, for sequences."""
        with self._lock:
            if self._sequences.must_stay:
                return False
            self._state.enter_stopping(SERVER_STOPS)
            self._state.has_dropped = True
            if self._state.phase is _ENDED:
                return True
            self._inflight.drop_last()
            freed = -self._inflight.grown()
        self._budget.give_back(1, freed)
        self._pump()
        return True

    def _reply_to(self, request: InflightRequest, model: str = "", version: str = "") -> Reply:
        observer = self._method.observer
        if observer is None:
            return Reply(self, request, self._codec)
        arrived = self._engine.clock()
        return ObservedReply(
            self,
            request,
            self._codec,
            observer=observer,
            method=self._method.name,
            model=model,
            version=version,
            arrived=arrived,
            trace=observer.begin(self._call.metadata, arrived),
        )

    def _give_up(self, error: ServeError) -> None:
        with self._lock:
            if not self._state.enter_aborting(error):
                return
            submitted = self._inflight.submitted()
        for each in submitted:
            each.withdraw(error)
        self._pump()

    def _pump(self) -> None:
        """Send the next message if its turn has come, or end the call when nothing is left to do."""
        error: ServeError | None = None
        ends = more = False
        with self._lock:
            if self._sending or self._state.phase is _ENDED:
                return
            message, left = self._next_message()
            if message is not None:
                self._sending = True
                more = self._inflight.next_is_due
            elif self._state.is_done(bool(self._inflight.requests)):
                ends = True
                error, left = self._state.enter_ended(), self._inflight.clear()
            resumed = self._inflight.resumable()
            freed = -self._inflight.grown() if left else 0
        if left:
            self._budget.give_back(left, freed)
        if message is not None:
            self._call.send(message, more=more)
            self.read_on()
        elif ends:
            self._end(error)
        for resume in resumed:
            resume()

    def _next_message(self) -> tuple[bytes | None, int]:
        """Take the next message to send, and how many requests it leaves fewer in flight; None: there is none now."""
        if self._state.phase is _ABORTING:
            return None, 0
        if self._inflight.requests:
            return self._inflight.take()
        return (None if self._state.takes_requests or self._state.ends_well else self._next_handoff()), 0

    def _next_handoff(self) -> bytes | None:
        """Return the message with the state of a sequence that the caller wants back; None: there is none left."""
        if self._handoffs is None:
            self._handoffs = self._sequences.handoffs()
        if not self._handoffs:
            return None
        return self._codec.encode_handoff(self._handoffs.pop())

    def _end(self, error: ServeError | None) -> None:
        status = None if error is None else status_of(error)
        self._sequences.close()
        self._on_over(self)
        self._call.end(status)
        if self._method.observer is not None:
            code = OK if status is None else status.code.name
            self._method.observer.on_call_end(self._method.name, code, self._engine.clock() - self._opened)
