"""Errors of requests and of starts, by meaning. No transport appears here.

Each class carries its status code by name, which each edge maps to its own. ConfigurationError stands apart: no request
sees it, it ends a start.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple


class Code(IntEnum):
    """The status of a call: names and numbers of google.rpc.Code, those that are used here."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Violation(NamedTuple):
    """One fault of a request: the path of the field, such as "inputs[1].shape", and what is wrong with it."""

    field: str
    description: str


class ServeError(Exception):
    """A request that ends without a result.

    Attributes:
        code: the status code.
        reason: the constant that programs can test for, UPPER_SNAKE_CASE.
        message: one sentence for people.
        metadata: the variable parts of the message, for programs.
        retry_after: seconds after which a retry may succeed; None when none will.
    """

    code = Code.INTERNAL
    reason = "INTERNAL"
    retry_after: float | None = None

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class InvalidRequest(ServeError):
    """The request contradicts itself or its model; `violations` name each field at fault."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[Violation], **metadata: str) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{more}", **metadata)
        self.violations = tuple(violations)


class InvalidValues(InvalidRequest):
    """The request fits the model, but the model cannot compute with its values or sizes."""

    reason = "INVALID_VALUES"


class OutOfMemory(ServeError):
    """The request, or its answer, needs more memory than there is or may be used."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "OUT_OF_MEMORY"

    def __init__(self, message: str, retry_after: float | None = None, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.retry_after = retry_after


class ResponseTooLarge(ServeError):
    """The answer holds more bytes than one may; the message names the output and the setting."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "RESPONSE_TOO_LARGE"


class EncodingNotSupported(ServeError):
    """The message is compressed in a way that this server does not take."""

    code = Code.UNIMPLEMENTED
    reason = "ENCODING_NOT_SUPPORTED"


class MessageTooLarge(ServeError):
    """The message has, or becomes, more bytes than it may."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "TOO_LARGE"


class NotReceived(ServeError):
    """The call waited for so long, for its message or for its answer to be read, that others needed its memory."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "TOO_SLOW"
    retry_after = 1.0


class ModelNotFound(ServeError):
    """No model, or no version of it, has that name; `resource` is what was asked for."""

    code = Code.NOT_FOUND
    reason = "MODEL_NOT_FOUND"

    def __init__(self, message: str, resource: str) -> None:
        super().__init__(message, resource=resource)
        self.resource = resource


class Draining(ServeError):
    """The server is about to stop; another replica may answer."""

    code = Code.UNAVAILABLE
    reason = "DRAINING"
    retry_after = 0.1


class CutOff(Draining):
    """The server stopped before it was done. On a stream it is left unanswered, for another server."""


class ModelStopped(ServeError):
    """The model no longer serves here, while the server goes on; another replica may answer."""

    code = Code.UNAVAILABLE
    reason = "MODEL_STOPPED"
    retry_after = 0.1

    def __init__(self, message: str = "the model was stopped on this server", **metadata: str) -> None:
        super().__init__(message, **metadata)


class QueueFull(ServeError):
    """As many rows or bytes wait as may."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"

    def __init__(self, message: str, retry_after: float, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.retry_after = retry_after


class SequencesFull(ServeError):
    """As many sequences of the model are live as may."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "SEQUENCES_FULL"
    retry_after = 1.0


class SequenceEvicted(ServeError):
    """The sequence's state is gone: it was idle for too long."""

    code = Code.FAILED_PRECONDITION
    reason = "SEQUENCE_EVICTED"


class DeadlineExceeded(ServeError):
    """The deadline passed before the result was there, or cannot be met."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Cancelled(ServeError):
    """The caller left."""

    code = Code.CANCELLED
    reason = "CANCELLED"


class ModelRunFailed(ServeError):
    """ONNX Runtime could not run the model on this request."""

    reason = "MODEL_RUN_FAILED"


class ConfigurationError(Exception):
    """The server cannot start, or a model not load, as configured: one line that names the place and the cure."""
