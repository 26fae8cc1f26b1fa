"""What one stream() call has sent and not yet had answered, so that it can go on over another connection."""

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
_DRAINING = "DRAINING"  # the reason with which a server ends a stream that is to go on elsewhere


def is_broken(error: grpc.RpcError) -> bool:
    """Whether a call ended because its connection did, or its server."""
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return True
    # What grpc.aio makes of a write to such a call (1.85.1), in place of the call's own status.
    return bool(error.code() == grpc.StatusCode.INTERNAL and error.details() == "Internal error from Core")


def call_cancelled(error: BaseException) -> bool:
    """Whether grpc.aio raised an error because the call was cancelled, and not the task that waits for it."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and not (task is not None and task.cancelling())


def check_answer(response: inference_service_pb2.StreamResponse, due: str | None) -> None:
    """Check that an answer is to the request that is due for one, given by its request_id; None: none is.

    Raises:
        Internal: it is another one's.
    """
    if response.request_id != due:
        raise Internal(
            grpc.StatusCode.INTERNAL,
            f"the stream has an answer to request {response.request_id!r} where one to {due!r} is due",
            request_id=due or "",
        )


class Unanswered:
    """The requests of a stream that wait for their answers, in order, and how many of them the present call has sent.

    A server that stops, or a connection that breaks, leaves requests unanswered. They are sent again on the next call:
    the server says of them that they were not run, and a model that is run again gives the same answer.

    Args:
        window: most requests that may wait at a time.
        retries: how often in a row a call that brings no answer is followed by another.
    """

    def __init__(self, window: int, retries: int) -> None:
        if window < 1:
            raise ValueError(f"window is a number of requests of at least 1, not {window}")
        self._window = window
        self._retries = retries
        self._requests: deque[tuple[str, bytes]] = deque()
        self._sent = 0
        self._failures = 0

    def __len__(self) -> int:
        """Return the number of requests that wait."""
        return len(self._requests)

    @property
    def has_room(self) -> bool:
        """Whether another request may be added."""
        return len(self._requests) < self._window

    @property
    def has_unsent(self) -> bool:
        """Whether a request waits that the present call has not sent."""
        return self._sent < len(self._requests)

    def add(self, request_id: str, message: bytes) -> None:
        """Add a request that is to be sent."""
        self._requests.append((request_id, message))

    def send_anew(self) -> None:
        """Note that a call begins, which has sent none of them."""
        self._sent = 0

    def next_message(self) -> bytes | None:
        """Return the next message to send on the present call; None: all have been sent."""
        if not self.has_unsent:
            return None
        self._sent += 1
        return self._requests[self._sent - 1][1]

    def answer(self, response: inference_service_pb2.StreamResponse) -> Prediction | OnnxserveError:
        """Return what the server answered to the oldest request, which waits no longer.

        Raises:
            Internal: it is no answer to that request.
        """
        check_answer(response, self._requests[0][0] if self._requests else None)
        request_id, _ = self._requests.popleft()
        self._sent -= 1
        self._failures = 0
        if response.WhichOneof("outcome") == "error":
            return from_status(response.error, request_id)
        return Prediction(response.response)

    def check_empty(self) -> None:
        """Check, at a good end of the call, that nothing waits.

        Raises:
            OnnxserveError: something does.
        """
        if self._requests:
            raise OnnxserveError(
                grpc.StatusCode.UNKNOWN,
                f"the stream ended with {len(self)} requests unanswered",
                request_id=self._requests[0][0],
            )

    def delay_after(self, error: grpc.RpcError) -> float | None:
        """Return after how many seconds to call again after a call ended with an error; None: not at all."""
        if not is_broken(error) or self._failures >= self._retries:
            return None
        # A call that had nothing to do when it was sent elsewhere has failed at nothing: inputs may be slow to come.
        if self._sent or from_rpc_error(error).reason != _DRAINING:
            self._failures += 1
        spread: float = random.uniform(0.5, 1.0)  # noqa: S311
        return spread * min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** (self._failures - 1))


class MessageSource:
    """Gives the messages of a stream to the calls that carry it, one after the other.

    grpc takes them on a thread of its own, and while the inputs keep it waiting the call may break: then that thread
    adds what it gets in the end, and the next call's sends it. Messages that are still taken for the broken call are
    sent again on the next one, like all that are unanswered when it begins.

    Args:
        requests: the caller's requests, each with its request_id; taken one by one as there is room for them.
        unanswered: where they wait; guarded by `changed`.
    """

    def __init__(self, requests: Iterator[tuple[str, bytes]], unanswered: Unanswered) -> None:
        self.failure: BaseException | None = None  # of the caller's own iterator
        self.changed = threading.Condition()
        self._requests = requests
        self._unanswered = unanswered
        self._call = 0
        self._pulling = False
        self._exhausted = False

    def messages(self) -> Iterator[bytes]:
        """Return the messages for a new call, the unanswered ones first; the call before gets no more."""
        with self.changed:
            self._call += 1
            self._unanswered.send_anew()
            self.changed.notify_all()
            return self._of_call(self._call)

    def close(self) -> None:
        """Give no more messages."""
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
        except BaseException as error:  # sys.exit() too: the thread is grpc's, and who reads the answers is to see it
            self.failure = error
        with self.changed:
            self._pulling = False
            if request is None:
                self._exhausted = True
            else:
                self._unanswered.add(*request)
            self.changed.notify_all()


class AsyncMessageSource:
    """Gives the messages of a stream to the calls that carry it, one after the other, in one event loop.

    A task of its own takes the inputs: grpc has one for each call to send, and does not end it with a call that breaks.

    Args:
        inputs: the caller's, of either kind.
        encode: makes a request_id and a message of each.
        unanswered: where the requests wait.
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
        """Look again: a request came, an answer came, or the inputs are exhausted."""
        self._changed.set()

    def messages(self) -> AsyncIterator[bytes]:
        """Return the messages for a new call, the unanswered ones first; the call before gets no more."""
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
        """Raise what the caller's inputs raised, if they did."""
        self._puller.result()

    async def close(self) -> None:
        """Take no more inputs, and give no more messages."""
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
