"""The messages of a stream(), for the calls that carry it one after the other."""

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

from onnxserve._forking import forks
from onnxserve._stream import Inputs, Unanswered


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
        if self._unanswered.has_unsent:
            return True
        return self._unanswered.all_sent if self._exhausted else self._unanswered.has_room and not self._pulling

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
            elif self._puller.done() and self._unanswered.all_sent:
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
