"""Messages of onnxserve.v1 to and from the engine's nouns."""

import math
from collections.abc import Iterable
from time import time
from typing import Any

from google.protobuf.message import DecodeError

from onnxserve.tensor import STRING, Array
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve.v1 import tensor_pb2
from onnxserve_server.core import Clock, Request, Result, Snapshot, Step, Stop, WireTensor
from onnxserve_server.errors import InvalidRequest, Violation
from onnxserve_server.spec import TensorSpec

_MAX_REQUEST_ID = 128  # characters
_MAX_TENSORS = 4096


def decode_request(message: bytes, deadline: float, clock: Clock) -> Request:
    """Return a serialized PredictRequest as a request.

    Args:
        message: the bytes that came.
        deadline: the call's, in seconds of Unix time; inf for none.
        clock: the engine's.

    Raises:
        InvalidRequest: not a valid PredictRequest, or its timeout is negative.
    """
    try:
        wire = inference.PredictRequest.FromString(message)
    except DecodeError as error:
        raise InvalidRequest([Violation("request", f"not a valid PredictRequest: {error}")]) from error
    return read_request(wire, deadline, clock)


def read_request(wire: inference.PredictRequest, deadline: float, clock: Clock) -> Request:
    """Return a PredictRequest as a request; `deadline` and errors as in decode_request()."""
    if len(wire.request_id) > _MAX_REQUEST_ID:
        raise InvalidRequest([Violation("request_id", f"it is longer than {_MAX_REQUEST_ID} characters")])
    for field, count in (("inputs", len(wire.inputs)), ("outputs", len(wire.outputs))):
        if count > _MAX_TENSORS:  # before a million objects are made of a message of two megabytes
            raise InvalidRequest([Violation(field, f"{count} are more than any model has; at most {_MAX_TENSORS}")])
    if deadline != math.inf:
        deadline = clock() + deadline - time()
    if wire.HasField("timeout"):
        timeout = wire.timeout.seconds + wire.timeout.nanos / 1e9
        if timeout < 0:
            raise InvalidRequest([Violation("timeout", f"{timeout} s is negative")])
        deadline = min(deadline, clock() + timeout)
    return Request(
        wire.model,
        wire.version,
        _read_tensors(wire.inputs),
        wire.outputs,
        wire.request_id,
        wire.priority,
        deadline,
    )


def read_step(wire: inference.StreamRequest) -> Step | None:
    """Return what makes a request more than one run that stands alone; None: nothing does.

    Raises:
        InvalidRequest: the sequence has no name, or one that is too long.
    """
    if not (wire.HasField("sequence") or wire.HasField("steps")):
        return None
    sequence, steps = wire.sequence, wire.steps
    if wire.HasField("sequence") and not 0 < len(sequence.id) <= _MAX_REQUEST_ID:
        raise InvalidRequest([Violation("sequence.id", f"a name of at most {_MAX_REQUEST_ID} characters is required")])
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


def encode_result(result: Result, request_id: str) -> bytes:
    """Return a result as a serialized PredictResponse."""
    response = inference.PredictResponse()
    write_result(response, result, request_id)
    return response.SerializeToString()


def write_result(response: inference.PredictResponse, result: Result, request_id: str) -> None:
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


def write_snapshot(
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
