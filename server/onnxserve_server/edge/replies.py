"""The answers of a stream: what becomes of the outcomes of its requests."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.core import Result, StepResult, Trace
from onnxserve_server.edge.inflight import InflightRequest
from onnxserve_server.edge.onnxserve_v1 import write_result, write_snapshot
from onnxserve_server.edge.predict import unexpected
from onnxserve_server.edge.status import OK, google_status
from onnxserve_server.engine.seam import Handoff
from onnxserve_server.errors import CutOff, ServeError
from onnxserve_server.observing import Observer

if TYPE_CHECKING:
    from onnxserve_server.edge.stream import Stream


class Answer:
    """Encodes the outcomes of one request for its stream. A class, not a closure: one is made for every request."""

    __slots__ = ("_place", "_stream")

    trace: Trace | None = None

    def __init__(self, stream: "Stream", place: InflightRequest) -> None:
        self._stream = stream
        self._place = place

    def __call__(self, outcome: Result | StepResult | ServeError) -> None:
        """Send the outcome of the request, or of one of its steps, when its turn comes."""
        self._put(outcome)

    def hold(self, resume: Callable[[], None]) -> bool:
        """Whether the request has to wait until its caller has read more; `resume` is called then."""
        return self._stream.hold(self._place, resume)

    def _put(self, outcome: Result | StepResult | ServeError) -> Result | StepResult | ServeError:
        """Put the outcome in its place among the answers; return it, or the error that had to stand in for it."""
        place = self._place
        if isinstance(outcome, CutOff):
            self._stream.leave(place)
            return outcome
        try:
            message = encode_answer(outcome, place.request_id)
        except Exception:
            outcome = unexpected(place.request_id)
            message = encode_answer(outcome, place.request_id)
        self._stream.answer(place, message, final=not isinstance(outcome, StepResult) or outcome.final)
        return outcome


class ObservedAnswer(Answer):
    """The same, and an observer is told. Implements core.RequestInfo."""

    __slots__ = ("_observer", "arrived", "model", "request_id", "trace", "version")

    method = "Stream"

    def __init__(
        self,
        stream: "Stream",
        place: InflightRequest,
        *,
        observer: Observer,
        model: str,
        version: str,
        arrived: float,
        trace: Trace | None,
    ) -> None:
        super().__init__(stream, place)
        self._observer = observer
        self.request_id = place.request_id
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


def encode_answer(outcome: Result | StepResult | ServeError, request_id: str) -> bytes:
    """Return the outcome of a request, or of one of its steps, as a serialized StreamResponse."""
    response = inference.StreamResponse(request_id=request_id)
    if isinstance(outcome, ServeError):
        response.error.CopyFrom(google_status(outcome, request_id))
        response.final = True
    elif isinstance(outcome, Result):
        write_result(response.response, outcome, request_id)
        response.final = True
    else:
        result = outcome.result
        write_result(response.response, result, request_id)
        if outcome.state is not None:
            write_snapshot(response.state, result.model, result.version, outcome.state)
        response.step = outcome.number
        response.final = outcome.final
    return response.SerializeToString()


def encode_handoff(handoff: Handoff) -> bytes:
    """Return the state of a sequence as a serialized StreamResponse that ends it here."""
    response = inference.StreamResponse(handoff=inference.Handoff(sequence=handoff.sequence))
    write_snapshot(response.handoff.state, handoff.spec.name, handoff.spec.version, handoff.state)
    return response.SerializeToString()
