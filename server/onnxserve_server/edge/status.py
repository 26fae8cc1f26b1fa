"""The engine's errors as gRPC statuses: one table, and the details that google.rpc defines."""

from collections.abc import Sequence
from typing import NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from onnxserve_server.errors import (
    Cancelled,
    CutOff,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    ModelNotFound,
    ModelRunFailed,
    QueueFull,
    SequenceEvicted,
    SequencesFull,
    ServeError,
)

DOMAIN = "onnxserve"

CODES: dict[type[ServeError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    Draining: grpc.StatusCode.UNAVAILABLE,
    CutOff: grpc.StatusCode.UNAVAILABLE,
    QueueFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    SequencesFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    SequenceEvicted: grpc.StatusCode.FAILED_PRECONDITION,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Cancelled: grpc.StatusCode.CANCELLED,
    ModelRunFailed: grpc.StatusCode.INTERNAL,
    ServeError: grpc.StatusCode.INTERNAL,
}


OK = grpc.StatusCode.OK.name

# gRPC's clients refuse trailing metadata of more than 8 KiB, and the message is in it twice.
_MOST_VIOLATIONS = 12
_LONGEST_TEXT = 200  # characters
_LONGEST_MESSAGE = 500


class Status(NamedTuple):
    """What a failed call ends with."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: Sequence[tuple[str, str | bytes]]


def code_of(error: ServeError) -> str:
    """Return the name of an error's status code, such as "NOT_FOUND"."""
    name: str = CODES[type(error)].name
    return name


def google_status(error: ServeError, request_id: str = "") -> status_pb2.Status:
    """Return an error as google.rpc.Status, with ErrorInfo and whatever else helps a caller or its program."""
    text = _shortened(error.message, _LONGEST_MESSAGE)
    metadata = error.metadata | ({"request_id": request_id} if request_id else {})
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason,
            domain=DOMAIN,
            metadata={key: _shortened(value, _LONGEST_TEXT) for key, value in metadata.items()},
        )
    ]
    if isinstance(error, InvalidRequest):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=field, description=_shortened(told, _LONGEST_TEXT)
                    )
                    for field, told in error.violations[:_MOST_VIOLATIONS]
                ]
            )
        )
    if isinstance(error, ModelNotFound):
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type="model", resource_name=_shortened(error.resource, _LONGEST_TEXT), description=text
            )
        )
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(_milliseconds(error.retry_after))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    code = CODES[type(error)].value[0]
    return status_pb2.Status(code=code, message=text, details=[_packed(detail) for detail in details])


def status_of(error: ServeError, request_id: str = "") -> Status:
    """Return what a call ends with that fails with an error."""
    status = google_status(error, request_id)
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if error.retry_after is not None:
        trailing.append(("grpc-retry-pushback-ms", str(_milliseconds(error.retry_after))))
    return Status(CODES[type(error)], status.message, trailing)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1e3))


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
