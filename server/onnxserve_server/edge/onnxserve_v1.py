"""The codec of onnxserve.v1, unary and streaming: implements both protocols of codec.py."""

import math
from collections.abc import Iterable
from time import time
from typing import Any

from onnxserve.tensor import STRING, Array
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve.v1 import tensor_pb2
from onnxserve_server.core import Clock, Request, Result, Snapshot, Step, StepResult, Stop, WireTensor
from onnxserve_server.edge.codec import Cancellation
from onnxserve_server.edge.messages import parse
from onnxserve_server.edge.status import google_status
from onnxserve_server.engine.seam import Handoff
from onnxserve_server.errors import InvalidRequest, ServeError, Violation
from onnxserve_server.spec import MAX_TENSORS, TensorSpec

_MAX_REQUEST_ID = 128  # characters


def decode_request(message: bytes, deadline: float, clock: Clock) -> Request:
    """Return a serialized PredictRequest as a request; see UnaryCodec."""
    return _read_request(parse(inference.PredictRequest, message), deadline, clock)


def decode_message(message: bytes) -> "StreamedPredict | Cancellation":
    """Return what a serialized StreamRequest asks for; see StreamCodec."""
    wire = parse(inference.StreamRequest, message)
    match wire.WhichOneof("kind"):
        case "predict":
            return StreamedPredict(wire)
        case "cancel" if wire.cancel.request_id:
            return Cancellation(wire.cancel.request_id)
        case "cancel":
            raise _invalid("cancel.request_id", "it is required: name the request to cancel")
        case _:
            raise _invalid("kind", "it is empty: set predict or cancel")


class StreamedPredict:
    """A StreamRequest with a PredictRequest in it. Implements codec.StreamedRequest."""

    __slots__ = ("_predict", "_wire", "model", "request_id", "version")

    def __init__(self, wire: inference.StreamRequest) -> None:
        self._wire = wire
        self._predict = predict = wire.predict
        self.request_id = predict.request_id
        self.model = predict.model
        self.version = predict.version

    @property
    def ended_sequence(self) -> str:
        """The sequence that ends with this request; "" for none."""
        return self._wire.sequence.id if self._wire.sequence.end else ""

    def read(self, deadline: float, clock: Clock) -> tuple[Request, Step | None]:
        """Return the request, and the step that makes it more than one run that stands alone."""
        return _read_request(self._predict, deadline, clock), _read_step(self._wire)


def encode_result(result: Result, request_id: str) -> bytes:
    """Return a result as a serialized PredictResponse."""
    response = inference.PredictResponse()
    _write_result(response, result, request_id)
    return response.SerializeToString()


def encode_reply(outcome: Result | StepResult | ServeError, request_id: str) -> bytes:
    """Return the outcome of a request, or of one of its steps, as a serialized StreamResponse."""
    response = inference.StreamResponse(request_id=request_id)
    if isinstance(outcome, ServeError):
        response.error.CopyFrom(google_status(outcome, request_id))
        response.final = True
    elif isinstance(outcome, Result):
        _write_result(response.response, outcome, request_id)
        response.final = True
    else:
        result = outcome.result
        _write_result(response.response, result, request_id)
        if outcome.state is not None:
            _write_snapshot(response.state, result.model, result.version, outcome.state)
        response.step = outcome.number
        response.final = outcome.final
    return response.SerializeToString()


def encode_handoff(handoff: Handoff) -> bytes:
    """Return the state of a sequence as a serialized StreamResponse that ends it here."""
    response = inference.StreamResponse(handoff=inference.Handoff(sequence=handoff.sequence))
    _write_snapshot(response.handoff.state, handoff.spec.name, handoff.spec.version, handoff.state)
    return response.SerializeToString()


def _read_request(wire: inference.PredictRequest, deadline: float, clock: Clock) -> Request:
    """Return a PredictRequest as a request; `deadline` and errors are those of UnaryCodec.decode_request()."""
    if len(wire.request_id) > _MAX_REQUEST_ID:
        raise _invalid("request_id", f"it is longer than {_MAX_REQUEST_ID} characters")
    inputs, outputs = wire.inputs, wire.outputs
    if len(inputs) > MAX_TENSORS or len(outputs) > MAX_TENSORS:
        # Before a million objects are made of a message of two megabytes.
        field, count = ("inputs", len(inputs)) if len(inputs) > MAX_TENSORS else ("outputs", len(outputs))
        raise _invalid(field, f"{count} are more than any model has; at most {MAX_TENSORS}")
    if deadline != math.inf:
        deadline = clock() + deadline - time()
    if wire.HasField("timeout"):
        timeout = wire.timeout.seconds + wire.timeout.nanos / 1e9
        if timeout < 0:
            raise _invalid("timeout", f"{timeout} s is negative")
        deadline = min(deadline, clock() + timeout)
    return Request(
        wire.model,
        wire.version,
        _read_tensors(inputs),
        outputs,
        wire.request_id,
        wire.priority,
        deadline,
    )


def _read_step(wire: inference.StreamRequest) -> Step | None:
    """Return the step that makes a request more than one run that stands alone; None: it is one such run.

    Raises:
        InvalidRequest: the sequence has no name, or one that is too long.
    """
    if not (wire.HasField("sequence") or wire.HasField("steps")):
        return None
    sequence, steps = wire.sequence, wire.steps
    if wire.HasField("sequence") and not 0 < len(sequence.id) <= _MAX_REQUEST_ID:
        raise _invalid("sequence.id", f"a name of at most {_MAX_REQUEST_ID} characters is required")
    state = None
    if sequence.HasField("state"):
        snapshot = sequence.state
        state = Snapshot(snapshot.model, snapshot.version, _read_tensors(snapshot.tensors))
    stop = None
    if steps.HasField("stop"):
        stop = Stop(steps.stop.output, steps.stop.value if steps.stop.HasField("value") else None)
    max_steps = steps.max if wire.HasField("steps") else None
    return Step(sequence.id, sequence.end, sequence.snapshot, state, sequence.handoff, max_steps, stop)


def _read_tensors(tensors: Iterable[tensor_pb2.Tensor]) -> list[WireTensor]:
    return [
        WireTensor(tensor.name, tensor.data_type, tuple(tensor.shape), tensor.data, tensor.strings)
        for tensor in tensors
    ]


def _write_result(response: inference.PredictResponse, result: Result, request_id: str) -> None:
    """Write a result into an empty PredictResponse."""
    response.model = result.model
    response.version = result.version
    response.request_id = request_id
    _write_tensors(response.outputs, result.outputs)
    queue_us, batch_wait_us, compute_us, batch_rows, batch_requests, provider = result.receipt
    receipt = response.receipt
    receipt.queue_us = queue_us
    receipt.batch_wait_us = batch_wait_us
    receipt.compute_us = compute_us
    receipt.batch_rows = batch_rows
    receipt.batch_requests = batch_requests
    receipt.provider = provider


def _write_snapshot(
    snapshot: inference.StateSnapshot, model: str, version: str, state: Iterable[tuple[TensorSpec, Array]]
) -> None:
    """Write a sequence's state into an empty StateSnapshot."""
    snapshot.model = model
    snapshot.version = version
    _write_tensors(snapshot.tensors, state)


def _write_tensors(field: Any, arrays: Iterable[tuple[TensorSpec, Array]]) -> None:
    for spec, array in arrays:
        if spec.data_type == STRING:
            strings = [str(element).encode() for element in array.ravel()]
            field.add(name=spec.name, data_type=STRING, shape=array.shape, strings=strings)
        else:  # add() copies the bytes once; a Tensor made apart would be copied again
            field.add(name=spec.name, data_type=spec.data_type, shape=array.shape, data=array.tobytes())


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([Violation(field, description)])
