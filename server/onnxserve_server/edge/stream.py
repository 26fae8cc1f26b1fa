"""A streaming call of either edge: many requests at a time, each answered once, in the order of their arrival.

A stream has a window: so many requests, or bytes of them and of their replies, may be in flight at a time. Once it is
full nothing more is read, and HTTP/2 flow control holds the caller back. A reply leaves the window when it is sent, so
a caller that does not read its replies stops its own stream, and only that.

A stream goes down this table, and never up:

    phase      new requests      those in flight    left by                                              for
    OPEN       taken             finished           stop(); the engine drains                            STOPPING
                                                    cut_off()                                            CUT_OFF
                                                    on_gone(), abort()                                   ABORTING
                                                    none is in flight, and the caller has closed         ENDED
    STOPPING   left unanswered   finished           cut_off()                                            CUT_OFF
                                                    on_gone(), abort()                                   ABORTING
                                                    none is in flight, and the states of sequences are   ENDED
                                                    handed over, or the caller has closed
    CUT_OFF    left unanswered   left unanswered    as STOPPING                                          ENDED
                                                    on_gone(), abort()                                   ABORTING
    ABORTING   left unanswered   left unanswered    the message that was being sent is out               ENDED
    ENDED      left unanswered   none

A STOPPING stream still takes requests while a sequence is live whose state would be lost with it. Once one
was left unanswered, for another server, the call ends with an error even if its caller has closed.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from onnxserve_server.edge.calls import StreamCall
from onnxserve_server.edge.codec import Cancellation, StreamCodec, StreamedRequest
from onnxserve_server.edge.inflight import Inflight, InflightRequest, StreamBudget
from onnxserve_server.edge.replies import ObservedReply, Reply
from onnxserve_server.edge.status import OK, status_of, unexpected
from onnxserve_server.engine.seam import Cancellable, Handoff, Inference
from onnxserve_server.errors import Cancelled, CutOff, Draining, ServeError
from onnxserve_server.observing import Observer

_SERVER_STOPS = "the server is about to stop"
_CUT_OFF_AT = "the server stopped before this was answered: raise --drain-timeout where requests take longer"


class Phase(Enum):
    """The phase of a stream; see the table above."""

    OPEN = auto()
    STOPPING = auto()
    CUT_OFF = auto()
    ABORTING = auto()
    ENDED = auto()


# Python 3.11 takes long to find a member of an enum, and these are looked up for every request.
_OPEN, _STOPPING, _CUT_OFF, _ABORTING, _ENDED = Phase
_OVER = (_ABORTING, _ENDED)


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
        self._sequences = method.engine.sequences()
        self._lock = threading.Lock()  # guards the fields below; never held while calling into the engine or the edge
        self._phase = _OPEN
        self._reason = ""  # why no more requests are taken, from STOPPING on
        self._error: ServeError | None = None  # ends those in flight from CUT_OFF on, and the call in ABORTING
        self._inflight = Inflight(method.budget.window)
        self._handoffs: list[Handoff] | None = None
        self._reading = False  # a message has been asked for
        self._sending = False
        self._half_closed = False  # the caller sends no more
        self._has_dropped = False  # a request was left unanswered, so the call cannot end well

    @property
    def phase(self) -> Phase:
        """The phase it is in."""
        return self._phase

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
            self._half_closed = True
        self._pump()

    def on_sent(self) -> None:
        """Note that the last message is out, or lost."""
        with self._lock:
            self._sending = False
        self._pump()

    def on_gone(self) -> None:
        """Note that the caller left: its requests are withdrawn."""
        self._give_up(Cancelled("the caller left"))

    def stop(self, why: str = _SERVER_STOPS) -> None:
        """Take no more requests; end when those in flight are answered, and say why."""
        with self._lock:
            self._enter_stopping(why)
        self._pump()

    def cut_off(self) -> None:
        """Leave the requests in flight unanswered, and end with the states that are to be handed over."""
        error = CutOff(_CUT_OFF_AT)
        with self._lock:
            submitted = self._enter_cut_off(error)
        for each in submitted:
            each.withdraw(error)
        self._pump()

    def abort(self) -> None:
        """End now."""
        self._give_up(Draining(_CUT_OFF_AT))

    def read_on(self) -> None:
        """Ask for the next message, unless the window is full."""
        with self._lock:
            if self._reading or self._half_closed or self._phase in _OVER:
                return
            if self._inflight.requests:
                if self._inflight.is_full or not self._budget.has_room(self):
                    return
            elif not self._takes_requests:  # with something in flight it reads on: that may still be cancelled
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
            self._has_dropped = True
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
            return self._phase not in _OVER and self._inflight.hold(request, resume)

    def _add(self, nbytes: int) -> InflightRequest | None:
        """Return a new request in flight; None: the call ends without it, so that its caller knows it was not run."""
        with self._lock:  # the one that stop() takes: no state is handed over while a step of it is on its way
            self._reading = False
            if not self._takes_requests:
                self._has_dropped = True
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
                over = self._error
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
            self._enter_stopping(_SERVER_STOPS)
            self._has_dropped = True
            if self._phase is _ENDED:
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
            if self._phase in _OVER:
                return
            submitted = self._enter_aborting(error)
        for each in submitted:
            each.withdraw(error)
        self._pump()

    def _pump(self) -> None:
        """Send the next message if its turn has come, or end the call when nothing is left to do."""
        error: ServeError | None = None
        ends = more = False
        with self._lock:
            if self._sending or self._phase is _ENDED:
                return
            message, left = self._next_message()
            if message is not None:
                self._sending = True
                more = self._inflight.next_is_due
            elif self._is_done:
                ends = True
                error, left = self._enter_ended()
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
        if self._phase is _ABORTING:
            return None, 0
        if self._inflight.requests:
            return self._inflight.take()
        return (None if self._takes_requests or self._ends_well else self._next_handoff()), 0

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

    # To be called with the lock held.

    @property
    def _takes_requests(self) -> bool:
        """Whether further requests are taken: until the server stops, and then for sequences that would be lost."""
        return self._phase is _OPEN or (self._phase is _STOPPING and self._sequences.must_stay)

    @property
    def _ends_well(self) -> bool:
        """Whether the call ends with OK once every request in flight is answered."""
        return self._half_closed and not self._has_dropped

    @property
    def _is_done(self) -> bool:
        """Whether the call is to end, now that there is nothing to send."""
        if self._inflight.requests:
            return self._phase is _ABORTING
        return self._ends_well or not self._takes_requests

    def _enter_stopping(self, why: str) -> None:
        self._reason = why
        if self._phase is _OPEN:
            self._phase = _STOPPING

    def _enter_cut_off(self, error: CutOff) -> list[Cancellable]:
        """Return the jobs and steps to withdraw."""
        if self._phase in _OVER:
            return []
        self._phase, self._error = _CUT_OFF, error
        self._reason = _CUT_OFF_AT if self._inflight.requests else _SERVER_STOPS
        return self._inflight.submitted()

    def _enter_aborting(self, error: ServeError) -> list[Cancellable]:
        """Return the jobs and steps to withdraw."""
        self._phase, self._error = _ABORTING, error
        return self._inflight.submitted()

    def _enter_ended(self) -> tuple[ServeError | None, int]:
        """Return the error that the call ends with, None for OK, and how many requests were in flight."""
        error: ServeError | None = None if self._ends_well else Draining(self._reason)
        if self._phase is _ABORTING:
            error = self._error
        self._phase = _ENDED
        return error, self._inflight.clear()
