"""Calls that wait, and the joined requests that they become part of; nothing here decides or sends."""

import abc
import enum
import math
from time import monotonic
from typing import Protocol

from onnxserve._joining import JoinedPart, Key, join, split
from onnxserve._prediction import Prediction, read_prediction
from onnxserve._retrying import Attempts, Failed
from onnxserve.errors import OnnxserveError
from onnxserve.v1 import inference_service_pb2


class Verdict(enum.Enum):
    """How waiting can end, other than with an answer or an error."""

    ALONE = enum.auto()
    """The caller is to send its call alone. The call counts as in flight."""
    LEFT = enum.auto()
    """The caller has given up its call."""


Outcome = Prediction | OnnxserveError | Verdict


class Waiter(abc.ABC):
    """A call that waits to be sent with others, and then for its part of the answer.

    Attributes:
        key: what the joined calls have in common.
        part: what the call adds to their request.
        deadline: when the call's timeout is over, in seconds of time.monotonic(); inf for never.
        request_id: the call's name in its answer and errors. The server sees only that of the joined request.
        is_first: whether no other call waited before; then its caller calls flush() after Coalescer.max_wait.
        batch: the joined request that the call is part of; None while it waits to be sent.
        outcome: how the call ended; None: not yet.
        failed: how the joined request failed, if the call is to be sent alone as its next attempt; None otherwise.
    """

    __slots__ = ("batch", "deadline", "failed", "is_first", "key", "outcome", "part", "request_id")

    def __init__(self, key: Key, part: JoinedPart, deadline: float, request_id: str) -> None:
        """Make a waiter that does not wait yet; see Coalescer.wait()."""
        self.key = key
        self.part = part
        self.deadline = deadline
        self.request_id = request_id
        self.is_first = False
        self.batch: Batch | None = None
        self.outcome: Outcome | None = None
        self.failed: Failed | None = None

    @property
    def time_left(self) -> float:
        """Seconds until the deadline: inf for none, never below 0."""
        return max(0.0, self.deadline - monotonic())

    @abc.abstractmethod
    def wake(self) -> None:
        """Make the caller look at the outcome. Called at most once, from any thread; must not block."""


class Call(Protocol):
    """A gRPC call of either client."""

    def cancel(self) -> object:
        """Cancel the call."""
        ...


class Batch:
    """Calls that are sent as one request.

    Attributes:
        key: what the calls have in common.
        spec: the model's limits at the time.
        waiters: the calls, in the order of their rows.
        call: the gRPC call of the request, once it is made; the last one.
        attempts: those at the request, once it was refused.
        refused: the error of the last attempt, until the next one; None: there was none.
    """

    def __init__(self, key: Key, first: Waiter) -> None:
        """Make a batch of one call; add() brings others."""
        self.key = key
        self.spec = first.part.spec
        self.waiters = [first]
        self.call: Call | None = None
        self.attempts: Attempts | None = None
        self.refused: OnnxserveError | None = None
        self._request_id = ""
        self._rows = first.part.rows
        self._nbytes = first.part.nbytes
        first.batch = self

    def add(self, waiter: Waiter) -> bool:
        """Add a call and return True; or return False if the batch has no room for it."""
        rows, nbytes = self._rows + waiter.part.rows, self._nbytes + waiter.part.nbytes
        if not self.spec.has_room(rows, nbytes):
            return False
        self._rows, self._nbytes = rows, nbytes
        self.waiters.append(waiter)
        waiter.batch = self
        return True

    @property
    def abandoned(self) -> bool:
        """Whether all callers have given up their calls."""
        return all(waiter.outcome is Verdict.LEFT for waiter in self.waiters)

    @property
    def timeout(self) -> float | None:
        """Seconds until the last of the deadlines, above 0; None: a call has no deadline."""
        left = max(waiter.deadline for waiter in self.waiters) - monotonic()
        return None if left == math.inf else max(0.001, left)

    def message(self, request_id: str) -> bytes:
        """Return the joined request, serialized, for its next attempt."""
        self._request_id, self.refused = request_id, None
        return join(self.key, [waiter.part for waiter in self.waiters], request_id)

    def split(self, response: inference_service_pb2.PredictResponse) -> list[Prediction]:
        """Return each call's part of the answer.

        Raises:
            InvalidAnswer: the answer contradicts itself or the request.
            ValueError: another version of the model answered, which may not compute row by row; or see split().
            ImportError: see Prediction.
        """
        whole = read_prediction(response, self._request_id, self.key.outputs)
        if response.version != self.spec.version:
            raise ValueError(f"version {response.version} answered, not {self.spec.version}")
        return split(whole, [(waiter.part.rows, waiter.request_id) for waiter in self.waiters], self.spec.shared)
