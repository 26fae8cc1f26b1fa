"""The messages of a stream's answers."""

from collections.abc import Sequence

from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.core import ModelSpec, Result, StepResult, TensorSpec
from onnxserve_server.edge.codec import write_result, write_snapshot
from onnxserve_server.edge.status import google_status
from onnxserve_server.errors import ServeError


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


def encode_handoff(sequence: str, spec: ModelSpec, state: Sequence[tuple[TensorSpec, Array]]) -> bytes:
    """Return the state of a sequence as a serialized StreamResponse that ends it here."""
    response = inference.StreamResponse(handoff=inference.Handoff(sequence=sequence))
    write_snapshot(response.handoff.state, spec.name, spec.version, state)
    return response.SerializeToString()
