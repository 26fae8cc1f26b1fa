"""One request: the function runs on a thread of its own, until the deadline at most."""

import contextvars
import logging
import math
import threading
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import grpc
import numpy as np

from onnxserve.errors import Cancelled, DeadlineExceeded, FieldViolation, Internal, InvalidArgument, OnnxserveError
from onnxserve.tensor import Array, decode
from onnxserve.testing._models import Function, response_of
from onnxserve.v1 import inference_service_pb2

_NO_DEADLINE = 1e9  # seconds; grpc gives a call without a deadline more than that

_logger = logging.getLogger("onnxserve.testing")
_current: contextvars.ContextVar["Request"] = contextvars.ContextVar("request")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The request that a function is answering; see current_request()."""

    model: str
    """The name of the model that was asked for."""
    version: str
    """The version that was asked for; "" for the default."""
    outputs: tuple[str, ...]
    """The outputs that were asked for; () for all."""
    request_id: str
    """The request's name."""
    priority: int
    """The request's priority, from -10 to 10."""
    deadline: float
    """When the answer must be there, in seconds of time.monotonic(); inf for no limit."""
    cancelled: threading.Event = field(default_factory=threading.Event, compare=False)
    """Set once nobody waits for the answer: the caller cancelled the call, or the deadline passed, or the server is
    closed. A function that waits for something waits for this event too."""

    @property
    def time_left(self) -> float:
        """Seconds until the deadline: inf for no limit, never below 0."""
        return max(0.0, self.deadline - monotonic())


def current_request() -> Request:
    """Return the request that the calling function is answering.

    Raises:
        LookupError: the caller is not a function that the server runs, or runs on another thread.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("no request: call this in a function that the server runs, on the same thread") from None


def read(message: inference_service_pb2.PredictRequest, rpc: Any) -> tuple[Request, dict[str, Array]]:
    """Return a request that has just arrived, and its inputs.

    Args:
        message: the request; its own timeout counts from now.
        rpc: the grpc.ServicerContext of the call that brought it.

    Raises:
        InvalidArgument: a tensor contradicts itself.
    """
    left = rpc.time_remaining()
    if message.HasField("timeout"):
        left = min(left, message.timeout.ToTimedelta().total_seconds())
    request = Request(
        model=message.model,
        version=message.version,
        outputs=tuple(message.outputs),
        request_id=message.request_id,
        priority=message.priority,
        deadline=monotonic() + left if left < _NO_DEADLINE else math.inf,
    )
    if not rpc.add_callback(request.cancelled.set):
        request.cancelled.set()
    inputs = {}
    for number, tensor in enumerate(message.inputs):
        try:
            inputs[tensor.name] = decode(tensor)
        except ValueError as error:
            raise invalid(f"inputs[{number}]", str(error)) from error
    return request, inputs


def run(function: Function, inputs: dict[str, Array], request: Request, threads: Executor) -> dict[str, Array]:
    """Return all outputs of a function.

    Raises:
        OnnxserveError: the function raised one; or another exception, which becomes Internal; or the deadline passed.
    """
    future = threads.submit(_call, function, inputs, request)
    try:
        error = future.exception(None if request.deadline == math.inf else request.time_left)
    except TimeoutError:
        request.cancelled.set()
        future.cancel()
        message = "the deadline passed before the function returned"
        raise DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, message) from None
    except CancelledError:
        raise Cancelled(grpc.StatusCode.CANCELLED, "the server has been closed") from None
    if error is None:
        return future.result()
    raise error if isinstance(error, OnnxserveError) else _failed(request, error)


def answer(outputs: dict[str, Array], request: Request, version: str) -> inference_service_pb2.PredictResponse:
    """Return the message of an answer, with the outputs that were asked for.

    Raises:
        InvalidArgument: the function has not returned one of them.
        Internal: an output has a type that the protocol lacks.
    """
    for number, name in enumerate(request.outputs):
        if name not in outputs:
            names = ", ".join(map(repr, outputs))
            raise invalid(f"outputs[{number}]", f"unknown output {name!r}; the model's outputs are {names}")
    wanted = {name: outputs[name] for name in request.outputs or outputs}
    try:
        return response_of(wanted, model=request.model, version=version, request_id=request.request_id)
    except TypeError as error:
        raise _failed(request, error) from error


def invalid(field: str, description: str) -> InvalidArgument:
    """Return the error of a request with one fault."""
    return InvalidArgument(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"{field}: {description}",
        violations=(FieldViolation(field, description),),
    )


def _call(function: Function, inputs: dict[str, Array], request: Request) -> dict[str, Array]:
    token = _current.set(request)
    try:
        return {name: np.asarray(array) for name, array in function(inputs).items()}
    finally:
        _current.reset(token)


def _failed(request: Request, error: BaseException) -> Internal:
    _logger.error("the function of model %r failed", request.model, exc_info=error)
    message = f"the function of model {request.model!r} raised {type(error).__name__}: {error}"
    return Internal(grpc.StatusCode.INTERNAL, message)
