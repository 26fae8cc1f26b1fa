"""What both edges do with a Predict call: decode, hand over to the engine, encode, send."""

import logging
from collections.abc import Callable
from typing import Protocol

from onnxserve_server.core import Clock, Result
from onnxserve_server.edge.codec import decode_request, encode_result
from onnxserve_server.edge.status import Status, status_of
from onnxserve_server.engine.engine import Engine
from onnxserve_server.errors import ServeError

logger = logging.getLogger(__name__)


class Call(Protocol):
    """A unary call at either edge. It is answered once, by reply() or fail(), from any thread.

    Attributes:
        deadline: seconds of Unix time; inf for none.
        on_cancel: called, from any thread, when the caller leaves before the answer.
    """

    deadline: float
    on_cancel: Callable[[], None] | None

    def reply(self, message: bytes) -> None:
        """Answer with a message and the status OK."""
        ...

    def fail(self, status: Status) -> None:
        """Answer with an error."""
        ...


class Predict:
    """Handles the calls of InferenceService.Predict."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def __call__(self, call: Call, message: bytes) -> None:
        """Take a call's message; the call is answered later, or at once with an error. Never raises."""
        request_id = ""
        try:
            request = decode_request(message, call.deadline, self._clock)
            request_id = request.request_id
            job = self._engine.submit(request, _Answer(call, request_id))
            call.on_cancel = job.cancel
        except ServeError as error:
            call.fail(status_of(error, request_id))
        except Exception:
            call.fail(unexpected(request_id))


class _Answer:
    """Encodes the outcome of one request and sends it. A class, not a closure: it is made for every request."""

    __slots__ = ("_call", "_request_id")

    def __init__(self, call: Call, request_id: str) -> None:
        self._call = call
        self._request_id = request_id

    def __call__(self, outcome: Result | ServeError) -> None:
        call = self._call
        try:
            if isinstance(outcome, Result):
                call.reply(encode_result(outcome, self._request_id))
            else:
                call.fail(status_of(outcome, self._request_id))
        except Exception:
            call.fail(unexpected(self._request_id))


def unexpected(request_id: str) -> Status:
    """Log the exception being handled; return a status that tells nothing of it: its text may hold a caller's data."""
    logger.exception("request %r failed unexpectedly", request_id)
    return status_of(ServeError("the server failed on this request; its log says why"), request_id)
