"""A unary call of either edge: decode, hand over to the engine, encode, reply."""

from onnxserve_server.core import Request, Result, Trace
from onnxserve_server.edge.calls import Call
from onnxserve_server.edge.codec import UnaryCodec
from onnxserve_server.edge.status import OK, status_of, unexpected
from onnxserve_server.edge.unsent import UnsentAnswers
from onnxserve_server.engine.seam import Inference
from onnxserve_server.errors import NotReceived, ServeError
from onnxserve_server.observing import Observer

_LARGE = 1 << 20  # bytes of an answer


class Predict:
    """Handles the calls of a unary method.

    Args:
        method: its name, for the observer.
        codec: reads and writes its messages.
        engine: runs the requests.
        unsent: bounds the replies that are not read.
        observer: sees each request; None: nobody does.
    """

    def __init__(
        self, method: str, codec: UnaryCodec, engine: Inference, unsent: UnsentAnswers, observer: Observer | None = None
    ) -> None:
        self._method = method
        self._codec = codec
        self._engine = engine
        self._clock = engine.clock
        self._unsent = unsent
        self._observer = observer

    def __call__(self, call: Call, message: bytes) -> None:
        """Take a call's message; the reply follows later, or at once if it is an error. Never raises."""
        codec, observer = self._codec, self._observer
        if observer is None:
            reply = _Reply(call, codec, self._unsent)
        else:
            reply = _ObservedReply(
                call, codec, self._unsent, method=self._method, observer=observer, arrived=self._clock()
            )
        try:
            request = reply.to(codec.decode_request(message, call.deadline, self._clock))
            job = self._engine.submit(request, reply)
            call.on_cancel = job.cancel
        except ServeError as error:
            reply(error)
        except Exception:
            reply(unexpected(reply.request_id))


class _Reply:
    """Encodes the outcome of one request and sends it. A class, not a closure: it is made for every request."""

    __slots__ = ("_call", "_codec", "_unsent", "request_id")

    def __init__(self, call: Call, codec: UnaryCodec, unsent: UnsentAnswers) -> None:
        self._call = call
        self._codec = codec
        self._unsent = unsent
        self.request_id = ""

    def to(self, request: Request) -> Request:
        """Note which request this is the reply to; return it as the engine is to get it."""
        self.request_id = request.request_id
        return request

    def __call__(self, outcome: Result | ServeError) -> None:
        self._send(outcome)

    def _send(self, outcome: Result | ServeError) -> ServeError | None:
        """Send the outcome; return the error that was sent, if any."""
        call = self._call
        try:
            if isinstance(outcome, Result):
                if (nbytes := sum([array.nbytes for _, array in outcome.outputs])) > _LARGE:
                    self._send_large(outcome, nbytes)
                else:
                    call.reply(self._codec.encode_result(outcome, self.request_id))
                return None
            call.fail(status_of(outcome, self.request_id))
        except NotReceived as refused:
            outcome = refused
            call.fail(status_of(outcome, self.request_id))
        except Exception:
            outcome = unexpected(self.request_id)
            call.fail(status_of(outcome, self.request_id))
        return outcome

    def _send_large(self, result: Result, nbytes: int) -> None:
        """Send an answer that takes much memory in each of its forms: one at a time, of all models."""
        with self._unsent.encoding:
            if self._unsent.is_full:
                self._unsent.check(nbytes)
            self._call.reply(self._codec.encode_result(result, self.request_id))


class _ObservedReply(_Reply):
    """A reply that an observer sees too. Implements core.RequestInfo."""

    __slots__ = ("_observer", "arrived", "method", "model", "trace", "version")

    def __init__(
        self,
        call: Call,
        codec: UnaryCodec,
        unsent: UnsentAnswers,
        *,
        method: str,
        observer: Observer,
        arrived: float,
    ) -> None:
        # Not by super().__init__: it takes a quarter of a microsecond more.
        self._call, self._codec, self._unsent, self.request_id = call, codec, unsent, ""
        self._observer = observer
        self.method = method
        self.arrived = arrived
        self.model = self.version = ""
        self.trace: Trace | None = observer.begin(call.metadata, arrived)

    def to(self, request: Request) -> Request:
        """Note which request this is the reply to; return it as the engine is to get it."""
        self.request_id, self.model, self.version = request.request_id, request.model, request.version
        if self.trace is None:
            return request
        self.trace.mark("admit")
        return request._replace(trace=self.trace)

    def __call__(self, outcome: Result | ServeError) -> None:
        error = self._send(outcome)
        if error is None and isinstance(outcome, Result):
            self._observer.on_answer(self, OK, outcome)
        elif error is not None:
            self._observer.on_answer(self, error.code.name, error)
