"""Errors of functions as an onnxserve server sends them."""

from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from onnxserve.errors import ModelRunFailed, OnnxserveError

# The reasons that a server gives with its codes; an error's own reason comes first.
_REASONS = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_REQUEST",
    grpc.StatusCode.NOT_FOUND: "MODEL_NOT_FOUND",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "QUEUE_FULL",
    grpc.StatusCode.FAILED_PRECONDITION: "SEQUENCE_EVICTED",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.UNAVAILABLE: "DRAINING",
    grpc.StatusCode.CANCELLED: "CANCELLED",
    grpc.StatusCode.INTERNAL: "INTERNAL",
}


def status_of(error: OnnxserveError, request_id: str) -> status_pb2.Status:
    """Return an error as google.rpc.Status, with the details that errors.from_status() reads."""
    reason = error.reason or ("MODEL_RUN_FAILED" if type(error) is ModelRunFailed else _REASONS.get(error.code, ""))
    metadata = error.metadata | ({"request_id": request_id} if request_id else {})
    details: list[message.Message] = [error_details_pb2.ErrorInfo(reason=reason, domain="onnxserve", metadata=metadata)]
    if error.violations:
        kind = error_details_pb2.BadRequest.FieldViolation
        violations = [kind(field=each.field, description=each.description) for each in error.violations]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if error.resource is not None:
        details.append(error_details_pb2.ResourceInfo(resource_type="model", resource_name=error.resource))
    if error.retry_delay is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_delay * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=error.code.value[0], message=error.message, details=map(_packed, details))


def abort(rpc: Any, error: OnnxserveError, request_id: str = "") -> NoReturn:
    """End a call with an error. `rpc` is its grpc.ServicerContext."""
    trailing: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status_of(error, request_id).SerializeToString())
    ]
    if error.retry_delay is not None:
        trailing.append(("grpc-retry-pushback-ms", str(max(1, round(error.retry_delay * 1e3)))))
    rpc.set_trailing_metadata(trailing)
    rpc.abort(error.code, error.message)
    raise AssertionError("abort() raises")


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
