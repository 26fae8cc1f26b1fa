"""The replies of a stream: where the outcomes of its requests, and of their steps, become messages."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxserve_server.core import Result, StepResult, Trace
from onnxserve_server.edge.codec import StreamCodec
from onnxserve_server.edge.inflight import InflightRequest
from onnxserve_server.edge.status import OK, unexpected
from onnxserve_server.errors import CutOff, ServeError
from onnxserve_server.observing import Observer

if TYPE_CHECKING:
    from onnxserve_server.edge.stream import Stream


class Reply:
    """Encodes the outcomes of one request for its stream. A class, not a closure: one is made for every request."""

    __slots__ = ("_codec", "_request", "_stream")

    trace: Trace | None = None

    def __init__(self, stream: "Stream", request: InflightRequest, codec: StreamCodec) -> None:
        self._stream = stream
        self._request = request
        self._codec = codec

    def __call__(self, outcome: Result | StepResult | ServeError) -> None:
        """Send the outcome of the request, or of one of its steps, when its turn comes."""
        self._put(outcome)

    def hold(self, resume: Callable[[], None]) -> bool:
        """Whether the request has to wait until its caller has read more; `resume` is called then."""
        return self._stream.hold(self._request, resume)

    def _put(self, outcome: Result | StepResult | ServeError) -> Result | StepResult | ServeError:
        """Put the outcome into its turn; return it, or the error that had to stand in for it."""
        request = self._request
        if isinstance(outcome, CutOff):
            self._stream.leave(request)
            return outcome
        try:
            message = self._codec.encode_reply(outcome, request.request_id)
        except Exception:
            outcome = unexpected(request.request_id)
            message = self._codec.encode_reply(outcome, request.request_id)
        self._stream.reply(request, message, final=not isinstance(outcome, StepResult) or outcome.final)
        return outcome


class ObservedReply(Reply):
    """A reply that an observer sees too. Implements core.RequestInfo."""

    __slots__ = ("_observer", "arrived", "method", "model", "request_id", "trace", "version")

    def __init__(
        self,
        stream: "Stream",
        request: InflightRequest,
        codec: StreamCodec,
        *,
        observer: Observer,
        method: str,
        model: str,
        version: str,
        arrived: float,
        trace: Trace | None,
    ) -> None:
        # Not by super().__init__: it takes a quarter of a microsecond more.
        self._stream, self._request, self._codec = stream, request, codec
        self._observer = observer
        self.request_id = request.request_id
        self.method = method
        self.model = model
        self.version = version
        self.arrived = arrived
        self.trace = trace

    def __call__(self, outcome: Result | StepResult | ServeError) -> None:
        """Send the outcome of the request, or of one of its steps, when its turn comes."""
        outcome = self._put(outcome)
        if isinstance(outcome, ServeError):
            self._observer.on_answer(self, outcome.code.name, outcome)
        elif isinstance(outcome, Result):
            self._observer.on_answer(self, OK, outcome)
        elif outcome.final:
            self._observer.on_answer(self, OK, outcome.result)
