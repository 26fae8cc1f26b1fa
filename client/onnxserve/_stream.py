"""The unanswered requests of one stream(), so that it can continue over another connection."""

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from math import inf
from time import monotonic
from typing import Protocol

import grpc

from onnxserve._forking import forks
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


def call_cancelled(error: BaseException) -> bool:
    """Whether grpc.aio raised an error because the call was cancelled, and not the task that waits for it."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and not (task is not None and task.cancelling())


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
    one of them may have ended the server, and so they are sent again one by one; see Attempts.

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
        return sent < len(requests) and (not sent or not requests[0].broke)

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

    def expire(self) -> OnnxserveError:
        """Return the error of the oldest request, whose answer is overdue, and remove the request."""
        return DeadlineExceeded(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"no answer within the timeout of {self._timeout:g} s",
            request_id=self._pop().request_id,
        )

    def after(self, failed: Failed) -> float | OnnxserveError:
        """Return the seconds to wait before another call, after a call failed; or the error of the oldest request.

        That request has been removed.

        Raises:
            OnnxserveError: the stream cannot go on.
        """
        self._rest()
        if failed.failure is not Failure.FINAL and not self._sent:
            # It has failed nobody: the inputs may just be slow.
            self._idle_ends += failed.error.reason != _DRAINING
            return retry_delay(self._idle_ends + 1, failed.asked)
        oldest = self._requests[0] if self._requests else None
        if self._attempts is None:
            left = inf if oldest is None else oldest.sent_at + self._timeout - monotonic()
            self._attempts = Attempts(self._policy, None if left == inf else left, broke=self.one_by_one)
        try:
            delay = self._attempts.delay_after(failed)
        except OnnxserveError as error:
            if failed.failure is Failure.FINAL or oldest is None:
                raise
            return of_request(error, self._pop().request_id)
        if failed.failure is Failure.BROKE:
            for request in itertools.islice(self._requests, self._sent):
                request.broke = True
        return delay

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
            self._watcher.arm(max(self._requests[0].sent_at + self._timeout, monotonic()) + GRACE)
        elif self._all_added and not self._requests:
            self._watcher.arm(monotonic() + self._timeout + GRACE)


class MessageSource:
    """The messages of a stream, for the calls that carry it one after the other.

    grpc iterates the messages on a thread of its own. While that thread waits for the caller's inputs, the call may
    break: then it adds the request that it gets in the end, and the next call's thread sends it. Messages that the
    broken call still takes are sent again on the next one, as are all unanswered requests.

    Args:
        requests: the caller's requests, each with its request_id; iterated as the window allows.
        unanswered: the requests that wait; guarded by `changed`.

    Attributes:
        changed: notified after each change.
        failure: the exception that the caller's iterator raised; None: none.
    """

    def __init__(self, requests: Iterator[tuple[str, bytes]], unanswered: Unanswered) -> None:
        self.failure: BaseException | None = None
        self.changed = threading.Condition()
        self._requests = requests
        self._unanswered = unanswered
        self._forks = forks()
        self._call = 0
        self._pulling = False
        self._exhausted = False

    def messages(self) -> Iterator[bytes]:
        """Return the messages for a new call, the unanswered ones first; the previous call gets no more."""
        with self.changed:
            self._call += 1
            self._unanswered.send_anew()
            self.changed.notify_all()
            return self._of_call(self._call)

    def close(self) -> None:
        """End the iteration of all calls."""
        if self._forks != forks():  # the lock may be held by a thread of the parent process
            return
        with self.changed:
            self._call += 1
            self._exhausted = True
            self.changed.notify_all()

    def _of_call(self, call: int) -> Iterator[bytes]:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: call != self._call or self._can_go_on())
                if call != self._call:
                    return
                message = self._unanswered.next_message()
                if message is None:
                    if self._exhausted:
                        return
                    self._pulling = True
            if message is not None:
                yield message
            else:
                self._pull()

    def _can_go_on(self) -> bool:
        return self._unanswered.has_unsent or self._exhausted or (self._unanswered.has_room and not self._pulling)

    def _pull(self) -> None:
        request = None
        try:
            request = next(self._requests, None)
        except BaseException as error:  # sys.exit() too: this is grpc's thread, and the caller's thread raises it
            self.failure = error
        with self.changed:
            self._pulling = False
            if request is None:
                self._exhausted = True
                self._unanswered.end()
            else:
                self._unanswered.add(*request)
            self.changed.notify_all()


class AsyncMessageSource:
    """The messages of a stream, for the calls that carry it one after the other, in one event loop.

    A task of its own iterates the inputs: grpc's own task, one for each call, does not end with a call that breaks.

    Args:
        inputs: the caller's inputs, an iterable or an asynchronous one.
        encode: returns a request_id and a message for each.
        unanswered: the requests that wait.
    """

    def __init__(
        self,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        encode: Callable[[Inputs], tuple[str, bytes]],
        unanswered: Unanswered,
    ) -> None:
        self._call = 0
        self._changed = asyncio.Event()
        self._encode = encode
        self._unanswered = unanswered
        self._puller = asyncio.create_task(self._pull(inputs))
        self._puller.add_done_callback(self._pulled)

    def _pulled(self, _: object) -> None:
        self._unanswered.end()
        self.notify()

    def notify(self) -> None:
        """Wake the waiting tasks: a request or an answer has arrived, or the inputs are exhausted."""
        self._changed.set()

    def messages(self) -> AsyncIterator[bytes]:
        """Return the messages for a new call, the unanswered ones first; the previous call gets no more."""
        self._call += 1
        self._unanswered.send_anew()
        self.notify()
        return self._of_call(self._call)

    async def _of_call(self, call: int) -> AsyncIterator[bytes]:
        while call == self._call:
            message = self._unanswered.next_message()
            if message is not None:
                yield message
            elif self._puller.done():
                return
            else:
                await self._wait()

    def check(self) -> None:
        """Raise the exception of the caller's inputs, if there was one."""
        self._puller.result()

    async def close(self) -> None:
        """Stop iterating the inputs, and end the iteration of all calls."""
        self._call += 1
        self._puller.cancel()
        await asyncio.gather(self._puller, return_exceptions=True)

    async def _pull(self, inputs: Iterable[Inputs] | AsyncIterable[Inputs]) -> None:
        if isinstance(inputs, AsyncIterable):
            async for each in inputs:
                await self._add(each)
        else:
            for each in inputs:
                await self._add(each)

    async def _add(self, inputs: Inputs) -> None:
        self._unanswered.add(*self._encode(inputs))
        self.notify()
        while not self._unanswered.has_room:
            await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()
