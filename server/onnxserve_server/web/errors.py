"""Errors as HTTP responses, and the errors that HTTP alone has."""

import json
from typing import Any

from starlette.responses import JSONResponse, Response

from onnxserve_server.errors import Code, EncodingNotSupported, InvalidRequest, MessageTooLarge, ServeError

_STATUSES = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.FAILED_PRECONDITION: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.INTERNAL: 500,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
_STATUSES_OF_ERRORS: dict[type[ServeError], int] = {MessageTooLarge: 413, EncodingNotSupported: 415}


class HttpError(ServeError):
    """An error that HTTP has a status of its own for."""

    http_status: int


class NotAllowed(HttpError):
    """The request does not come from this server's own page, nor from a program."""

    code = Code.PERMISSION_DENIED
    http_status = 403
    reason = "OTHER_ORIGIN"


class NotPost(HttpError):
    """The method is not POST."""

    code = Code.UNIMPLEMENTED
    http_status = 405
    reason = "NOT_POST"


class TooLarge(HttpError):
    """The request has more bytes than this port accepts."""

    code = Code.RESOURCE_EXHAUSTED
    http_status = 413
    reason = "TOO_LARGE"


class NotJson(HttpError):
    """The Content-Type is not JSON's, which a form of another site cannot send."""

    code = Code.INVALID_ARGUMENT
    http_status = 415
    reason = "NOT_JSON"


class AsciiJson(JSONResponse):
    """JSON in ASCII: a caller's text that is sent back may not be valid Unicode."""

    def render(self, content: Any) -> bytes:
        """See JSONResponse."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def status_of(error: ServeError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, HttpError):
        return error.http_status
    return _STATUSES_OF_ERRORS.get(type(error)) or _STATUSES[error.code]


def error_response(error: ServeError) -> Response:
    """Return an error as JSON: the name of its gRPC code, reason, message, and the violations of fields."""
    violations = error.violations if isinstance(error, InvalidRequest) else ()
    fields = {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "violations": [violation._asdict() for violation in violations],
    }
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, NotPost):
        headers["Allow"] = "POST"
    if isinstance(error, EncodingNotSupported):
        headers["Accept-Encoding"] = error.metadata.get("accepted", "identity")
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return AsciiJson(fields, status_of(error), headers)
