"""The unanswered requests of one stream(), so that it can continue over another connection."""

import asyncio
import random
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping

import grpc

from onnxserve._prediction import Prediction
from onnxserve.errors import Internal, OnnxserveError, from_rpc_error, from_status
from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2

Inputs = Mapping[str, Array]

DEFAULT_WINDOW = 64

_FIRST_DELAY, _MAX_DELAY = 0.1, 2.0  # seconds
_DRAINING = "DRAINING"  # the reason with which a server ends a stream that is to continue elsewhere


def is_broken(error: grpc.RpcError) -> bool:
    """Whether a call ended because its connection or its server ended."""
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return True
    # grpc.aio (1.85.1) raises this for a write to such a call, in place of the call's own status.
    return bool(error.code() == grpc.StatusCode.INTERNAL and error.details() == "Internal error from Core")


def call_cancelled(error: BaseException) -> bool:
    """Whether grpc.aio raised an error because the call was cancelled, and not the task that waits for it."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and not (task is not None and task.cancelling())


def check_answer(response: inference_service_pb2.StreamResponse, due: str | None) -> None:
    """Check that an answer belongs to the request with the request_id `due`; None: no answer is due.

    Raises:
        Internal: the answer belongs to another request.
    """
    if response.request_id != due:
        raise Internal(
            grpc.StatusCode.INTERNAL,
            f"the server answered request {response.request_id!r} of the stream, but {due!r} is the next one",
            request_id=due or "",
        )


class Unanswered:
    """The requests of a stream that wait for their answers, in order, and how many of them the current call has sent.

    A server that stops, or a connection that breaks, leaves requests unanswered. They are sent again on the next call:
    a stopping server has not run them, and a model that is run twice gives the same answer.

    Args:
        window: the number of requests that may wait at a time.
        retries: the number of calls in a row that may end without an answer.
    """

    def __init__(self, window: int, retries: int) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1 request, not {window}")
        self._window = window
        self._retries = retries
        self._requests: deque[tuple[str, bytes]] = deque()
        self._sent = 0
        self._failures = 0

    def __len__(self) -> int:
        """Return the number of unanswered requests."""
        return len(self._requests)

    @property
    def has_room(self) -> bool:
        """Whether another request may be added."""
        return len(self._requests) < self._window

    @property
    def has_unsent(self) -> bool:
        """Whether the current call has not yet sent all of the requests."""
        return self._sent < len(self._requests)

    def add(self, request_id: str, message: bytes) -> None:
        """Add a request to send."""
        self._requests.append((request_id, message))

    def send_anew(self) -> None:
        """Note that a new call begins, which has sent none of the requests."""
        self._sent = 0

    def next_message(self) -> bytes | None:
        """Return the next message to send on the current call; None: all have been sent."""
        if not self.has_unsent:
            return None
        self._sent += 1
        return self._requests[self._sent - 1][1]

    def answer(self, response: inference_service_pb2.StreamResponse) -> Prediction | OnnxserveError:
        """Return the server's answer to the oldest request, and remove the request.

        Raises:
            Internal: the answer belongs to another request.
        """
        check_answer(response, self._requests[0][0] if self._requests else None)
        request_id, _ = self._requests.popleft()
        self._sent -= 1
        self._failures = 0
        if response.WhichOneof("outcome") == "error":
            return from_status(response.error, request_id)
        return Prediction(response.response)

    def check_empty(self) -> None:
        """Check that a call that ended well has answered all requests.

        Raises:
            OnnxserveError: it has not.
        """
        if self._requests:
            raise OnnxserveError(
                grpc.StatusCode.UNKNOWN,
                f"the server ended the stream with {len(self)} unanswered requests",
                request_id=self._requests[0][0],
            )

    def delay_after(self, error: grpc.RpcError) -> float | None:
        """Return the seconds to wait before another call, after a call ended with an error; None: give up."""
        if not is_broken(error) or self._failures >= self._retries:
            return None
        # A call without unanswered requests that was sent elsewhere has not failed: the inputs may just be slow.
        if self._sent or from_rpc_error(error).reason != _DRAINING:
            self._failures += 1
        spread: float = random.uniform(0.5, 1.0)  # noqa: S311
        return spread * min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** (self._failures - 1))


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
        self._puller.add_done_callback(lambda _: self.notify())

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
