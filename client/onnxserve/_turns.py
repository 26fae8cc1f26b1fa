"""Turns for requests that broke: one at a time is sent again, of all clients in the process.

One of them may end every server that runs it. The others have been in flight beside it once; if they were again, they
would break twice, and fail through no fault of their own.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, wait
from math import inf

from onnxserve._forking import in_children

_MAX_WAIT = 2.0  # seconds: requests that take long are not made to wait for each other's ends


class Turns:
    """A queue of requests; the first one has the turn. Thread-safe, for threads and tasks alike."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self.reset()

    def reset(self) -> None:
        """Start again with nobody waiting."""
        self._lock = threading.Lock()
        self._queue: deque[Future[None]] = deque()

    @contextlib.contextmanager
    def turn(self, seconds: float = inf) -> Iterator[None]:
        """Wait for a turn, at most so many seconds and never longer than two, and hold it in the block."""
        turn = self._join()
        try:
            wait([turn], min(seconds, _MAX_WAIT))
            yield
        finally:
            self._leave(turn)

    @contextlib.asynccontextmanager
    async def async_turn(self, seconds: float = inf) -> AsyncIterator[None]:
        """Do as turn() for a task."""
        turn = self._join()
        try:
            await asyncio.wait([asyncio.wrap_future(turn)], timeout=min(seconds, _MAX_WAIT))
            yield
        finally:
            self._leave(turn)

    def _join(self) -> "Future[None]":
        turn: Future[None] = Future()
        with self._lock:
            self._queue.append(turn)
            self._pass_on()
        return turn

    def _leave(self, turn: "Future[None]") -> None:
        with self._lock:
            if turn in self._queue:  # unless the process has forked since
                self._queue.remove(turn)
            self._pass_on()

    def _pass_on(self) -> None:
        if self._queue and not self._queue[0].done():
            self._queue[0].set_result(None)


TURNS = Turns()
"""The turns of this process."""
in_children(TURNS.reset)
