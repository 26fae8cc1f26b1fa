"""The exceptions of failed calls: one class for each gRPC status code, with the details that the server sent."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

__all__ = [
    "Cancelled",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidAnswer",
    "InvalidArgument",
    "ModelRunFailed",
    "NotFound",
    "OnnxserveError",
    "PermissionDenied",
    "ResourceExhausted",
    "ServersBroke",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "from_rpc_error",
    "from_status",
    "invalid_answer",
    "of_request",
]

_Detail = TypeVar("_Detail", bound=Message)

_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "onnxserve"  # of the reasons that our servers give; a proxy, or another service, may give its own
_LONGEST = 10**9  # seconds


@dataclass(frozen=True)
class FieldViolation:
    """One fault of a request."""

    field: str
    """The path of the field at fault, such as "inputs[1].shape"."""
    description: str
    """The fault, in a sentence."""


class OnnxserveError(Exception):
    """A call that failed. Status codes without a class of their own, such as UNKNOWN, raise this class itself.

    Attributes:
        code: the grpc.StatusCode.
        message: a sentence for people.
        reason: the machine-readable cause (google.rpc.ErrorInfo), such as "MODEL_RUN_FAILED"; "" if there is none, or
            if it is not an onnxserve server's.
        metadata: further facts about the cause (google.rpc.ErrorInfo).
        violations: the fields at fault; () if the request itself is not at fault.
        retry_delay: seconds after which a retry may succeed; None if the server did not say.
        request_id: the request's name, which is in the server's log too; "" if it had none.
        resource: the model, or model and version, that was not found; None for other errors.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        retry_delay: float | None = None,
        request_id: str = "",
        resource: str | None = None,
    ) -> None:
        """Make an error of these attributes."""
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_delay = retry_delay
        self.request_id = request_id
        self.resource = resource

    def __str__(self) -> str:
        """Return the message, then one line for each violation that the message does not already say."""
        violations = (f"{each.field}: {each.description}" for each in self.violations)
        return "\n".join([self.message, *(f"  {each}" for each in violations if each != self.message)])


class InvalidArgument(OnnxserveError):  # the classes are named after the status codes
    """INVALID_ARGUMENT: the model does not accept a name, dtype, shape or value; `violations` names the fields."""


class NotFound(OnnxserveError):
    """NOT_FOUND: the server has no such model or version; `resource` names it."""


class ResourceExhausted(OnnxserveError):
    """RESOURCE_EXHAUSTED: the model's queue is full, or a message exceeds a size limit. See `retry_delay`."""


class FailedPrecondition(OnnxserveError):
    """FAILED_PRECONDITION: the state of a sequence is lost; start a new sequence, from a snapshot if there is one."""


class DeadlineExceeded(OnnxserveError):
    """DEADLINE_EXCEEDED: the timeout passed, or the server estimated that it could not answer in time."""


class Unavailable(OnnxserveError):
    """UNAVAILABLE: no server was reached, none accepts requests, or the connection broke. All retries have failed."""


class ServersBroke(Unavailable):
    """UNAVAILABLE: two servers in a row broke while they served the request; it may be what ended them.

    The client has sent it once more after the first, and does not send it again. The reason is SERVERS_BROKE.
    """


class Unauthenticated(OnnxserveError):
    """UNAUTHENTICATED: the credentials are missing or invalid."""


class PermissionDenied(OnnxserveError):
    """PERMISSION_DENIED: the credentials do not permit this call."""


class Cancelled(OnnxserveError):
    """CANCELLED: the call was cancelled, but not through the caller's own asyncio task."""


class Unimplemented(OnnxserveError):
    """UNIMPLEMENTED: the server does not have this method; it may not be an onnxserve server."""


class Internal(OnnxserveError):
    """INTERNAL: a fault of the server; its log has the details under `request_id`."""


class ModelRunFailed(Internal):
    """INTERNAL with the reason MODEL_RUN_FAILED: the model itself failed on these inputs."""


class InvalidAnswer(Internal):
    """INTERNAL with the reason INVALID_ANSWER: the server's answer contradicts itself, or the request.

    What answers at the address may not be an onnxserve server, or not one that this client understands.
    """


_CODES = {code.value[0]: code for code in grpc.StatusCode}

_CLASSES: dict[grpc.StatusCode, type[OnnxserveError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
}
_CLASSES_BY_REASON: dict[str, type[OnnxserveError]] = {"MODEL_RUN_FAILED": ModelRunFailed}


def invalid_answer(fault: str, request_id: str = "") -> InvalidAnswer:
    """Return the error of an answer that is wrong; `fault` says how, of the server as "it"."""
    return InvalidAnswer(
        grpc.StatusCode.INTERNAL,
        f"the server's answer is invalid: {fault}",
        reason="INVALID_ANSWER",
        request_id=request_id,
    )


def of_request(error: OnnxserveError, request_id: str) -> OnnxserveError:
    """Return a copy of an error, for another request."""
    copied = copy.copy(error)
    copied.request_id = request_id
    if "request_id" in error.metadata:
        copied.metadata = error.metadata | {"request_id": request_id}
    copied.__cause__ = error.__cause__
    return copied


def from_rpc_error(error: grpc.RpcError, request_id: str = "") -> OnnxserveError:
    """Return the exception for a call that grpc or grpc.aio raised an error for.

    Args:
        error: the error of a finished call.
        request_id: the request's name as it was sent; one in the server's answer takes precedence.
    """
    code = error.code()
    return _from_details(code, error.details() or code.value[1], _rich_status(error), request_id)


def from_status(status: status_pb2.Status, request_id: str) -> OnnxserveError:
    """Return the exception for an error that arrived as a message of a stream."""
    return _from_details(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, status, request_id)


def _from_details(code: grpc.StatusCode, message: str, status: status_pb2.Status, request_id: str) -> OnnxserveError:
    info = _detail(status, error_details_pb2.ErrorInfo)
    if info.domain != _DOMAIN:
        info = error_details_pb2.ErrorInfo()
    retry = _detail(status, error_details_pb2.RetryInfo)
    cls = _CLASSES_BY_REASON.get(info.reason) or _CLASSES.get(code, OnnxserveError)
    return cls(
        code,
        message,
        reason=info.reason,
        metadata=info.metadata,
        violations=tuple(
            FieldViolation(each.field, each.description)
            for each in _detail(status, error_details_pb2.BadRequest).field_violations
        ),
        retry_delay=_seconds(retry),
        request_id=info.metadata.get("request_id") or request_id,
        resource=_detail(status, error_details_pb2.ResourceInfo).resource_name or None,
    )


def _rich_status(error: grpc.RpcError) -> status_pb2.Status:
    # Not grpc_status.from_call: it raises if a proxy has changed the message, although the details still help then.
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail:
    """Return the first detail of a kind, or an empty one."""
    message = kind()
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            try:
                packed.Unpack(message)
            except DecodeError:
                return kind()
            break
    return message


def _seconds(retry: error_details_pb2.RetryInfo) -> float | None:
    """Return the delay that a server asks for; None if it asks for none, or for one that no caller would wait for."""
    delay = retry.retry_delay
    return (
        delay.seconds + delay.nanos / 1e9 if retry.HasField("retry_delay") and 0 <= delay.seconds <= _LONGEST else None
    )
