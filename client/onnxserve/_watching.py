"""Ends streams whose next answer is overdue: gRPC's own deadline is for a whole stream, not for one of its requests."""

import asyncio
import threading
import weakref
from math import inf
from time import monotonic
from typing import Any

from onnxserve._forking import in_children, keep

GRACE = 0.5
"""Seconds beyond a request's timeout: the server itself says that the time is over, and that message takes a while."""

_MAX_SLEEP = 3600.0  # seconds; threads cannot wait for much longer than a year


class Watched:
    """A stream of the blocking client whose caller waits for answers.

    Attributes:
        call: the gRPC call that carries the stream.
        deadline: when the next answer is overdue, in seconds of time.monotonic(); inf while nobody waits.
    """

    def __init__(self) -> None:
        """Begin without a call and without a deadline."""
        self.call: Any = None
        self.deadline = inf
        self._expired: Any = None
        _WATCH.add(self)

    @property
    def expired(self) -> bool:
        """Whether the call was cancelled at a deadline; perhaps in the moment in which the answer came."""
        return self._expired is not None and self._expired is self.call

    def follow(self, call: Any) -> None:
        """Watch another call."""
        self.disarm()
        self.call = call

    def arm(self, deadline: float) -> None:
        """Cancel the call at a deadline."""
        self.deadline = deadline
        if deadline < _WATCH.wakes_at:
            _WATCH.wake()

    def disarm(self) -> None:
        """Wait for ever again."""
        self.deadline = inf

    def expire(self, now: float = inf) -> None:
        """Cancel the call if its deadline has passed; the caller may go on meanwhile, even to another call."""
        call = self.call
        if self.deadline <= now:
            self.deadline = inf
            self._expired = call
            call.cancel()


class _Watch:
    """The thread that looks after all streams of the process. It sleeps until the earliest deadline that it knows of.

    Most deadlines are moved on before they pass: then it wakes in vain, once in a timeout and not for each answer.

    Attributes:
        wakes_at: when the thread wakes by itself; inf: never.
        watched: all streams.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin without a thread and without a stream."""
        self.wakes_at = inf
        self._changed = threading.Condition()
        self.watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def add(self, watched: Watched) -> None:
        with self._changed:
            self.watched.add(watched)

    def wake(self) -> None:
        """Let the thread look at the deadlines."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="onnxserve-timeouts", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while True:
                self._changed.wait(self._look())

    def _look(self) -> float:
        """Expire what is overdue; return the seconds until the next deadline."""
        self.wakes_at = inf  # a deadline that is set from now on comes with a call of wake()
        now = monotonic()
        for watched in [*self.watched]:
            watched.expire(now)
        self.wakes_at = min((each.deadline for each in self.watched), default=inf)
        return min(_MAX_SLEEP, max(0.0, self.wakes_at - now))


_WATCH = _Watch()


def _leave_to_the_parent() -> None:
    for watched in [*_WATCH.watched]:
        keep(watched.call)
    _WATCH.reset()


in_children(_leave_to_the_parent)


class AsyncWatched:
    """A stream of the asyncio client, with a timer of its event loop; as Watched."""

    def __init__(self) -> None:
        """Begin without a call and without a deadline."""
        self.call: Any = None
        self.deadline = inf
        self.expired = False
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = inf

    def follow(self, call: Any) -> None:
        """Watch another call."""
        self.disarm()
        self.call, self.expired = call, False

    def arm(self, deadline: float) -> None:
        """Cancel the call at a deadline."""
        self.deadline = deadline
        if deadline < self._fires_at:
            if self._timer is not None:
                self._timer.cancel()
            self._fires_at = deadline
            self._timer = asyncio.get_running_loop().call_later(deadline - monotonic(), self._look)

    def disarm(self) -> None:
        """Wait for ever again."""
        self.deadline = inf

    def expire(self) -> None:
        """Cancel the call."""
        self.disarm()
        self.expired = True
        self.call.cancel()

    def _look(self) -> None:
        self._fires_at, self._timer = inf, None
        if self.deadline <= monotonic():
            self.expire()
        elif self.deadline < inf:
            self.arm(self.deadline)
