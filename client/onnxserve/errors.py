"""What a call can raise: one exception a gRPC status code, with the details that the server gave."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_Detail = TypeVar("_Detail", bound=Message)

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class FieldViolation:
    """One thing that is wrong with a request."""

    field: str
    """The path of the field at fault, such as "inputs[1].shape"."""
    description: str
    """What is wrong with it."""


class OnnxserveError(Exception):
    """A call that failed. Status codes without a class of their own (UNKNOWN, ABORTED) raise this one itself.

    Attributes:
        code: the grpc.StatusCode.
        message: what went wrong, in a sentence.
        reason: the machine-readable cause (google.rpc.ErrorInfo), such as "MODEL_RUN_FAILED"; "" when none was given.
        metadata: further facts about the cause (google.rpc.ErrorInfo).
        violations: the fields at fault; () when the request itself was not to blame.
        retry_delay: seconds after which a retry may succeed; None when the server did not say.
        request_id: the request's name, by which the server's log knows it; "" when it had none.
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
        """Keep what is known of the failure; see the attributes."""
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
        """Return the message, then the violations, one a line; not again where the message is one of them."""
        violations = (f"{each.field}: {each.description}" for each in self.violations)
        return "\n".join([self.message, *(f"  {each}" for each in violations if each != self.message)])


class InvalidArgument(OnnxserveError):  # these classes bear the names of the status codes
    """INVALID_ARGUMENT: a name, dtype, shape or value that the model does not take; `violations` says which."""


class NotFound(OnnxserveError):
    """NOT_FOUND: no such model or version; `resource` names it."""


class ResourceExhausted(OnnxserveError):
    """RESOURCE_EXHAUSTED: the model's queue is full, or a message is over its size limit. See `retry_delay`."""


class FailedPrecondition(OnnxserveError):
    """FAILED_PRECONDITION: the state of a sequence is gone; start it anew, or from a snapshot."""


class DeadlineExceeded(OnnxserveError):
    """DEADLINE_EXCEEDED: the timeout passed, or the server saw that it could not be met."""


class Unavailable(OnnxserveError):
    """UNAVAILABLE: no server was reached, or it is loading or stopping. Retries were used up before this is raised."""


class Unauthenticated(OnnxserveError):
    """UNAUTHENTICATED: no credentials, or bad ones."""


class PermissionDenied(OnnxserveError):
    """PERMISSION_DENIED: the credentials do not allow this call."""


class Cancelled(OnnxserveError):
    """CANCELLED: the call was cancelled by something other than the caller's own asyncio task."""


class Unimplemented(OnnxserveError):
    """UNIMPLEMENTED: the server does not know this method; is it an onnxserve server?"""


class Internal(OnnxserveError):
    """INTERNAL: a fault of the server; its log has more, under `request_id`."""


class ModelRunFailed(Internal):
    """INTERNAL with the reason MODEL_RUN_FAILED: the model itself failed on these inputs."""


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


def of_request(error: OnnxserveError, request_id: str) -> OnnxserveError:
    """Return a copy of an error that is another request's."""
    copied = copy.copy(error)
    copied.request_id = request_id
    if "request_id" in error.metadata:
        copied.metadata = error.metadata | {"request_id": request_id}
    copied.__cause__ = error.__cause__
    return copied


def from_rpc_error(error: grpc.RpcError, request_id: str = "") -> OnnxserveError:
    """Return the exception for what grpc or grpc.aio raised for a call.

    Args:
        error: the error of a finished call.
        request_id: the request's name as it was sent; the server's answer is believed first.
    """
    code = error.code()
    return _from_details(code, error.details() or code.value[1], _rich_status(error), request_id)


def from_status(status: status_pb2.Status, request_id: str) -> OnnxserveError:
    """Return the exception for an error that came as a message, as on a stream."""
    return _from_details(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, status, request_id)


def _from_details(code: grpc.StatusCode, message: str, status: status_pb2.Status, request_id: str) -> OnnxserveError:
    info = _detail(status, error_details_pb2.ErrorInfo)
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
        retry_delay=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        request_id=info.metadata.get("request_id") or request_id,
        resource=_detail(status, error_details_pb2.ResourceInfo).resource_name or None,
    )


def _rich_status(error: grpc.RpcError) -> status_pb2.Status:
    # Not grpc_status.from_call: it raises where a proxy has changed the message, and the details still help then.
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail:
    """Return the first detail of a kind, an empty one when there is none."""
    message = kind()
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            packed.Unpack(message)
            break
    return message
