"""The threads of a public grpc.server: calls whose message does not come hold none that others need.

A grpc.server gives each call a thread before the call's message is there. Some headers without a message would take
them all. So there are more threads than calls may run at a time, and when many calls wait for their message, the one
that has waited longest is ended.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc

MAX_WAITING = 1024
"""Calls of a pool that may wait for their message."""

_CODE = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_TOO_SLOW = "the message did not come in time, and others needed its place; send it again"


class CallPool(ThreadPoolExecutor):
    """Runs the calls of a grpc.server.

    Args:
        workers: calls that may run at a time.
        name: of the threads.
        max_waiting: calls that may wait for their message.
    """

    def __init__(self, workers: int, name: str, max_waiting: int = MAX_WAITING) -> None:
        super().__init__(workers + max_waiting, thread_name_prefix=name)
        self._running = threading.BoundedSemaphore(workers)
        self._max_waiting = max_waiting
        self._waiting: dict[Any, None] = {}  # calls, the one first that has waited longest
        self._current = threading.local()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See Executor: grpc gives what is to be run, and what came with the call."""
        call = next((found for each in args if (found := getattr(each, "call", None)) is not None), None)
        if call is not None:
            self._waiting[call] = None
            while len(self._waiting) > self._max_waiting:
                self._end_the_first()
        return super().submit(self._run, call, fn, *args, **kwargs)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Enter when the message of the call on this thread has come; the block may wait for others to end."""
        self.begin()
        with self._running:
            yield

    @property
    def call(self) -> Any:
        """The core's call of the thread that asks: its cancel(code, details) ends it from any thread."""
        return self._current.call

    def begin(self) -> None:
        """Note that the call on this thread waits for no message, or never will."""
        self._waiting.pop(self._current.call, None)

    def _run(self, call: Any, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._current.call = call
        try:
            return fn(*args, **kwargs)
        finally:
            self._waiting.pop(call, None)
            self._current.call = None  # while it is referred to, the core counts it as one of its connection

    def _end_the_first(self) -> None:
        with contextlib.suppress(StopIteration, RuntimeError):  # another thread takes one out now: look again
            call = next(iter(self._waiting))
            self._waiting.pop(call, None)
            end(call, _TOO_SLOW)


def end(call: Any, why: str) -> None:
    """End a call of the core with RESOURCE_EXHAUSTED, whatever it does; grpc's own handlers can but give CANCELLED."""
    call.cancel(_CODE, why)
