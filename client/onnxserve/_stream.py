"""The unanswered requests of one stream(), so that it can continue over another connection."""

import itertools
from collections import deque
from collections.abc import Mapping
from math import inf
from time import monotonic
from typing import Protocol

import grpc

from onnxserve._prediction import Prediction, read_prediction
from onnxserve._retrying import Attempts, Failed, Failure, RetryPolicy, retry_delay
from onnxserve._watching import GRACE
from onnxserve.errors import (
    DeadlineExceeded,
    OnnxserveError,
    from_status,
    invalid_answer,
    of_request,
)
from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2

Inputs = Mapping[str, Array]

DEFAULT_WINDOW = 64

_DRAINING = "DRAINING"  # the reason with which a server ends a stream that is to continue elsewhere


class Watcher(Protocol):
    """What ends a stream whose next answer is overdue; see Watched."""

    def arm(self, deadline: float) -> None:
        """Cancel the call at a deadline."""
        ...

    def disarm(self) -> None:
        """Wait for ever again."""
        ...


def check_answer(response: inference_service_pb2.StreamResponse, due: str | None) -> None:
    """Check that an answer belongs to the request with the request_id `due`; None: no answer is due.

    Raises:
        InvalidAnswer: the answer belongs to another request.
    """
    if response.request_id != due:
        expected = "no request waits for an answer" if due is None else f"{due!r} is the next one"
        raise invalid_answer(f"it answered request {response.request_id!r} of the stream, but {expected}", due or "")


def checked(outcome: Prediction | OnnxserveError, return_errors: bool) -> Prediction | OnnxserveError:
    """Return the outcome of a request of a stream.

    Raises:
        OnnxserveError: it is an error, and `return_errors` is False.
    """
    if isinstance(outcome, OnnxserveError) and not return_errors:
        raise outcome
    return outcome


class _Request:
    """A request that is unanswered: `sent_at` in seconds of time.monotonic(); `broke` if a call broke that had it."""

    __slots__ = ("broke", "message", "request_id", "sent_at")

    def __init__(self, request_id: str, message: bytes) -> None:
        self.request_id = request_id
        self.message = message
        self.sent_at = inf
        self.broke = False


class Unanswered:
    """The requests of a stream that wait for their answers, in order, and how many of them the current call has sent.

    A server that stops, or a connection that breaks, leaves requests unanswered. They are sent again on the next call:
    a stopping server has not run them, and a model that is run twice gives the same answer. Where a connection broke,
    one of them may have ended the server, and so they are sent again one by one, each while the caller waits; see
    Attempts.

    Args:
        window: the number of requests that may wait at a time.
        policy: the client's.
        timeout: the seconds for each request, from the time that it is sent first; None: no limit.
        watcher: what ends the call when the oldest answer is overdue.
    """

    def __init__(self, window: int, policy: RetryPolicy, timeout: float | None, watcher: Watcher) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1 request, not {window}")
        self._window = window
        self._policy = policy
        self._timeout = inf if timeout is None else timeout
        self._watcher = watcher
        self._requests: deque[_Request] = deque()
        self._sent = 0
        self._call_answers = False
        self._waits = False
        self._attempts: Attempts | None = None  # at the oldest request, after a failure
        self._idle_ends = 0
        self._all_added = False

    def __len__(self) -> int:
        """Return the number of unanswered requests."""
        return len(self._requests)

    @property
    def has_room(self) -> bool:
        """Whether another request may be added."""
        return len(self._requests) < self._window

    @property
    def one_by_one(self) -> bool:
        """Whether requests are sent singly, because they were on a call that broke."""
        return bool(self._requests) and self._requests[0].broke

    @property
    def has_unsent(self) -> bool:
        """Whether the current call is to send another of the requests now."""
        requests, sent = self._requests, self._sent
        return sent < len(requests) and (not requests[0].broke or (self._waits and not sent))

    @property
    def all_sent(self) -> bool:
        """Whether the current call has sent all requests."""
        return self._sent == len(self._requests)

    @property
    def ended(self) -> bool:
        """Whether all requests are answered, and no others will be added."""
        return self._all_added and not self._requests

    @property
    def time_left(self) -> float:
        """Seconds until the time of the oldest request is over: inf for never, never below 0."""
        return max(0.0, self._overdue_at() - monotonic())

    def add(self, request_id: str, message: bytes) -> None:
        """Add a request to send."""
        self._requests.append(_Request(request_id, message))

    def end(self) -> None:
        """Note that no requests will be added."""
        self._all_added = True
        self._arm()

    def send_anew(self) -> None:
        """Note that a new call begins, which has sent none of the requests."""
        self._sent = 0
        self._call_answers = False

    def next_message(self) -> bytes | None:
        """Return the next message to send on the current call; None: there is none now."""
        if not self.has_unsent:
            return None
        request = self._requests[self._sent]
        self._sent += 1
        if request.sent_at == inf:
            request.sent_at = monotonic()
        if self._sent == 1:
            self._arm()
        return request.message

    def wait(self) -> None:
        """Note that the caller waits for the oldest answer from now on."""
        self._waits = True
        self._arm()

    def answer(self, response: inference_service_pb2.StreamResponse) -> Prediction | OnnxserveError:
        """Return the server's answer to the oldest request, and remove the request.

        Raises:
            InvalidAnswer: the answer belongs to another request, or contradicts itself.
        """
        self._rest()
        check_answer(response, self._requests[0].request_id if self._requests else None)
        request_id = self._pop().request_id
        self._sent -= 1
        self._call_answers = True
        self._idle_ends = 0
        self._policy.note_answer()
        if response.WhichOneof("outcome") == "error":
            return from_status(response.error, request_id)
        return read_prediction(response.response, request_id)

    def check_empty(self) -> None:
        """Check that a call that ended well has answered all requests.

        Raises:
            InvalidAnswer: it has not.
        """
        if self._requests:
            raise invalid_answer(
                f"it ended the stream with {len(self)} unanswered requests", self._requests[0].request_id
            )

    def expire(self) -> list[OnnxserveError]:
        """Return the errors of the requests whose answers are overdue, after a call has ended, and remove them."""
        self._rest()
        now, message = monotonic(), f"no answer within the timeout of {self._timeout:g} s"
        errors: list[OnnxserveError] = []
        while self._overdue_at() <= now:
            request_id = self._pop().request_id
            errors.append(DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, message, request_id=request_id))
        return errors

    def after(self, failed: Failed) -> float | OnnxserveError:
        """Return the seconds to wait before another call, after a call failed; or the error of the oldest request.

        That request has been removed.

        Raises:
            OnnxserveError: the stream cannot go on.
        """
        self._rest()
        if failed.failure is Failure.UNSTARTED and self._call_answers:
            failed = failed._replace(failure=Failure.BROKE)
        if failed.failure is not Failure.FINAL and not self._sent:
            # It has failed nobody: the inputs may just be slow.
            self._idle_ends += failed.error.reason != _DRAINING
            return retry_delay(self._idle_ends + 1, failed.asked)
        oldest = self._requests[0] if self._requests else None
        if self._attempts is None:
            left = self._overdue_at() - monotonic()
            self._attempts = Attempts(self._policy, None if left == inf else left, broke=self.one_by_one)
        try:
            delay = self._attempts.delay_after(failed)
        except OnnxserveError as error:
            if failed.failure is Failure.FINAL or oldest is None:
                raise
            outcome = of_request(error, self._pop().request_id)
            if failed.failure is Failure.BROKE and self._policy.exhausted:  # the others are not sent again, either
                raise outcome from error.__cause__
            return outcome
        if failed.failure is Failure.BROKE:
            for request in itertools.islice(self._requests, self._sent):
                request.broke = True
        return delay

    def _overdue_at(self) -> float:
        return self._requests[0].sent_at + self._timeout if self._requests else inf

    def _pop(self) -> _Request:
        self._attempts = None
        return self._requests.popleft()

    def _rest(self) -> None:
        self._waits = False
        self._watcher.disarm()

    def _arm(self) -> None:
        if not self._waits or self._timeout == inf:
            return
        if self._sent:
            # The caller may have let answers wait: those that have arrived are taken first.
            self._watcher.arm(max(self._overdue_at(), monotonic()) + GRACE)
        elif self._all_added and not self._requests:
            self._watcher.arm(monotonic() + self._timeout + GRACE)
