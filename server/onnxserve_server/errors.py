"""What can go wrong with a request or with a start, by meaning. No transport appears here.

edge/status.py maps each class to its status code. ConfigurationError stands apart: no request sees it, it ends a start.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Violation(NamedTuple):
    """One fault of a request: the path of the field, such as "inputs[1].shape", and what is wrong with it."""

    field: str
    description: str


class ServeError(Exception):
    """A request that ends without a result.

    Attributes:
        reason: the constant that programs can test for, UPPER_SNAKE_CASE.
        message: one sentence for people.
        metadata: the variable parts of the message, for programs.
        retry_after: seconds after which a retry may succeed; None when none will.
    """

    reason = "INTERNAL"
    retry_after: float | None = None

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class InvalidRequest(ServeError):
    """The request contradicts itself or its model; `violations` name each field at fault."""

    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[Violation], **metadata: str) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{more}", **metadata)
        self.violations = tuple(violations)


class ModelNotFound(ServeError):
    """No model, or no version of it, has that name; `resource` is what was asked for."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, message: str, resource: str) -> None:
        super().__init__(message, resource=resource)
        self.resource = resource


class Draining(ServeError):
    """The server is about to stop; another replica may answer."""

    reason = "DRAINING"
    retry_after = 0.1


class CutOff(Draining):
    """The server stopped before it was done. On a stream it is left unanswered, for another server."""


class QueueFull(ServeError):
    """As many rows or bytes wait as may."""

    reason = "QUEUE_FULL"

    def __init__(self, message: str, retry_after: float, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.retry_after = retry_after


class SequencesFull(ServeError):
    """As many sequences of the model are live as may."""

    reason = "SEQUENCES_FULL"
    retry_after = 1.0


class SequenceEvicted(ServeError):
    """The sequence's state is gone: it was idle for too long."""

    reason = "SEQUENCE_EVICTED"


class DeadlineExceeded(ServeError):
    """The deadline passed before the result was there, or cannot be met."""

    reason = "DEADLINE_EXCEEDED"


class Cancelled(ServeError):
    """The caller left."""

    reason = "CANCELLED"


class ModelRunFailed(ServeError):
    """ONNX Runtime could not run the model on this request."""

    reason = "MODEL_RUN_FAILED"


class ConfigurationError(Exception):
    """The server cannot start, or a model not load, as configured: one line that names the place and the cure."""
