"""What both edges do with a Predict call: decode, hand over to the engine, encode, send."""

import logging

from onnxserve_server.core import Request, Result, Trace
from onnxserve_server.edge.calls import Call
from onnxserve_server.edge.onnxserve_v1 import decode_request, encode_result
from onnxserve_server.edge.status import OK, status_of
from onnxserve_server.engine.seam import Inference
from onnxserve_server.errors import ServeError
from onnxserve_server.observing import Observer

logger = logging.getLogger(__name__)


class Predict:
    """Handles the calls of InferenceService.Predict. `observer` is told of each."""

    def __init__(self, engine: Inference, observer: Observer | None = None) -> None:
        self._engine = engine
        self._clock = engine.clock
        self._observer = observer

    def __call__(self, call: Call, message: bytes) -> None:
        """Take a call's message; the call is answered later, or at once with an error. Never raises."""
        answer = _Answer(call) if self._observer is None else _ObservedAnswer(call, self._observer, self._clock())
        try:
            request = answer.of(decode_request(message, call.deadline, self._clock))
            job = self._engine.submit(request, answer)
            call.on_cancel = job.cancel
        except ServeError as error:
            answer(error)
        except Exception:
            answer(unexpected(answer.request_id))


class _Answer:
    """Encodes the outcome of one request and sends it. A class, not a closure: it is made for every request."""

    __slots__ = ("_call", "request_id")

    def __init__(self, call: Call) -> None:
        self._call = call
        self.request_id = ""

    def of(self, request: Request) -> Request:
        """Note which request this is the answer to; return it as the engine shall have it."""
        self.request_id = request.request_id
        return request

    def __call__(self, outcome: Result | ServeError) -> None:
        self._send(outcome)

    def _send(self, outcome: Result | ServeError) -> ServeError | None:
        """Send the outcome; return the error that was sent, if any."""
        call = self._call
        try:
            if isinstance(outcome, Result):
                call.reply(encode_result(outcome, self.request_id))
                return None
            call.fail(status_of(outcome, self.request_id))
        except Exception:
            outcome = unexpected(self.request_id)
            call.fail(status_of(outcome, self.request_id))
        return outcome


class _ObservedAnswer(_Answer):
    """The same, and an observer is told. Implements core.RequestInfo."""

    __slots__ = ("_observer", "arrived", "model", "trace", "version")

    method = "Predict"

    def __init__(self, call: Call, observer: Observer, arrived: float) -> None:
        self._call, self.request_id = call, ""  # not by super().__init__: it takes a quarter of a microsecond more
        self._observer = observer
        self.arrived = arrived
        self.model = self.version = ""
        self.trace: Trace | None = observer.begin(call.metadata, arrived)

    def of(self, request: Request) -> Request:
        """Note which request this is the answer to; return it as the engine shall have it."""
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


def unexpected(request_id: str) -> ServeError:
    """Log the exception being handled; return an error that tells nothing of it: its text may hold a caller's data."""
    logger.exception("request %r failed unexpectedly", request_id)
    return ServeError("the server failed on this request; its log says why")
