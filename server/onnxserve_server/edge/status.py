"""The engine's errors as gRPC statuses, with the details that google.rpc defines."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import grpc
from google.protobuf import duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from onnxserve_server.errors import Code, EncodingNotSupported, InvalidRequest, ModelNotFound, ServeError

logger = logging.getLogger(__name__)

DOMAIN = "onnxserve"
_TYPE_URL = "type.googleapis.com/"

OK = Code.OK.name

_CODES = {code: grpc.StatusCode[code.name] for code in Code}

# gRPC's clients refuse trailing metadata of more than 8 KiB, and the message is in it twice.
_MAX_VIOLATIONS = 12
_MAX_TEXT = 200  # characters
_MAX_MESSAGE = 500


class Status(NamedTuple):
    """The end of a call that failed, as gRPC sends it."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: Sequence[tuple[str, str | bytes]]


def google_status(error: ServeError, request_id: str = "") -> status_pb2.Status:
    """Return an error as google.rpc.Status, with ErrorInfo and what else helps a caller or its program."""
    text = _shortened(error.message, _MAX_MESSAGE)
    status = status_pb2.Status(code=error.code, message=text)
    metadata = {key: _shortened(value, _MAX_TEXT) for key, value in error.metadata.items()}
    if request_id:
        metadata["request_id"] = _shortened(request_id, _MAX_TEXT)
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if isinstance(error, InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=_shortened(fault, _MAX_TEXT))
            for field, fault in error.violations[:_MAX_VIOLATIONS]
        ]
        _add(status, error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, ModelNotFound):
        name = _shortened(error.resource, _MAX_TEXT)
        _add(status, error_details_pb2.ResourceInfo(resource_type="model", resource_name=name, description=text))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(_milliseconds(error.retry_after))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def status_of(error: ServeError, request_id: str = "") -> Status:
    """Return the status that a call ends with when it fails with an error."""
    status = google_status(error, request_id)
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if error.retry_after is not None:
        trailing.append(("grpc-retry-pushback-ms", str(_milliseconds(error.retry_after))))
    if isinstance(error, EncodingNotSupported):
        trailing.append(("grpc-accept-encoding", "identity"))
    return Status(_CODES[error.code], status.message, trailing)


def unexpected(request_id: str) -> ServeError:
    """Log the exception being handled; return an error that says nothing of it: its text may hold a caller's data."""
    logger.exception("request %r failed unexpectedly", request_id)
    return ServeError("the server failed on this request; its log says why")


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1e3))


def _shortened(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def _add(status: status_pb2.Status, detail: message.Message) -> None:
    """Add a detail as google.protobuf.Any. Pack() takes twice as long, and an overloaded server refuses a lot."""
    status.details.add(type_url=_TYPE_URL + detail.DESCRIPTOR.full_name, value=detail.SerializeToString())
