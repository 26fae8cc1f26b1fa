"""Answers that are on their way: those of callers that do not read are given up when others need their memory.

Beyond the bound the answers that wait longest are given up, but none that its caller may be reading: each has half a
second. That alone frees nothing while a connection takes no more bytes: the core keeps them until its write is over. So
where they stay for as long again, the connection is closed; and until the core has let go, no further large answer goes
out, or is encoded.
"""

import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, Protocol

from onnxserve_server.errors import NotReceived

_SMALL = 4096  # bytes of an answer that are not counted: their number is bounded
_MAX_SMALL = 16_384
# Bytes of memory for each of an answer until it is sent, as measured: grpcio's and the core's, and, of streams, what is
# behind it.
_OF_CALLS, _OF_STREAMS = 3, 7
_CLOSING, _REFUSING = 1.125, 1.25  # times the bound, from where on connections are closed, and answers refused
_GRACE = 0.5  # seconds in which a caller may read an answer, and the core let go of one that was given up

COUNTED_FROM = _SMALL // _OF_CALLS
"""Bytes from where on a unary answer counts."""
STREAMED_COUNTED_FROM = _SMALL // _OF_STREAMS
"""Bytes from where on an answer of a stream counts."""

NOT_READ = "the answer was not read in time, and others needed its memory: read it as it comes, or raise "
NO_ROOM = "too many answers are not read by their callers: try again later, read answers as they come, or raise "
_CURE = "--all-unsent-bytes"


class Abandonable(Protocol):
    """A call whose answer is on its way."""

    def abandon(self, why: str) -> None:
        """End it without."""
        ...

    def peer(self) -> str:
        """Return its caller as the core names it."""
        ...


class _Waiting(NamedTuple):
    nbytes: int
    since: float


class _GivenUp(NamedTuple):
    nbytes: int
    since: float
    peer: str


_NOTHING = _Waiting(0, 0.0)


class UnsentAnswers:
    """The answers that gRPC's core holds until their callers read them, and their bound in bytes. Thread-safe.

    Args:
        max_bytes: of all answers together; one may be larger.
        close: closes the connection of a caller.
        clock: returns the time in seconds.

    Attributes:
        nbytes: that all of them take, small ones not counted, until the core has let go of them.
        encoding: who encodes a large answer holds it: until the core has its copy, it takes memory three times.
    """

    def __init__(
        self, max_bytes: int, close: Callable[[str], None] = lambda _: None, clock: Callable[[], float] = monotonic
    ) -> None:
        self.nbytes = 0
        self.encoding = threading.Lock()
        self._max_bytes = max_bytes
        self._close = close
        self._clock = clock
        self._small: dict[Abandonable, None] = {}
        self._lock = threading.Lock()  # of what follows; each of these has the call first that has waited longest
        self._sizes: dict[Abandonable, int] = {}  # of all that the core holds
        self._waiting: dict[Abandonable, _Waiting] = {}  # those that may still be read
        self._waiting_bytes = 0
        self._given_up: dict[Abandonable, _GivenUp] = {}  # those whose connection is not closed
        self._given_up_bytes = 0

    def add(self, call: Abandonable, nbytes: int, *, stream: bool = False) -> None:
        """Note that the answer of a call goes out.

        Raises:
            NotReceived: it must not: too many others are not read.
        """
        nbytes *= _OF_STREAMS if stream else _OF_CALLS
        if nbytes <= _SMALL:
            self._small[call] = None
            if len(self._small) > _MAX_SMALL:
                with contextlib.suppress(StopIteration, RuntimeError, KeyError):  # another thread may take it out now
                    first = next(iter(self._small))
                    del self._small[first]
                    first.abandon(NOT_READ + _CURE)
            return
        with self._lock:
            has_room = self._has_room(nbytes)
            if has_room:
                self.nbytes += nbytes
                self._sizes[call] = nbytes
                self._waiting[call] = _Waiting(nbytes, self._clock())
                self._waiting_bytes += nbytes
            fits = has_room and self._waiting_bytes + self._given_up_bytes <= self._max_bytes
        if not fits:
            self.make_room()
        if not has_room:
            raise NotReceived(NO_ROOM + _CURE)

    @property
    def is_full(self) -> bool:
        """Whether the bound is reached, so that check() has something to do."""
        return self.nbytes > self._max_bytes

    def check(self, nbytes: int) -> None:
        """Check, before an answer of so many bytes is encoded, that it may go out; raises as add() does."""
        nbytes *= _OF_CALLS
        if nbytes > _SMALL and not self._has_room(nbytes):
            self.make_room()
            raise NotReceived(NO_ROOM + _CURE)

    def remove(self, call: Abandonable) -> None:
        """Note that an answer is out, or lost."""
        self._small.pop(call, None)
        if call in self._sizes:
            with self._lock:
                self.nbytes -= self._sizes.pop(call, 0)
                self._waiting_bytes -= self._waiting.pop(call, _NOTHING).nbytes
                self._given_up_bytes -= self._given_up.pop(call, _NOTHING).nbytes

    def make_room(self, behind: float = 0.0) -> None:
        """Give up answers that have waited for long, beyond the bound.

        Args:
            behind: how many times the bound the replies of streams take that wait behind these. Above 1 the answer that
                waits longest is given up anyway, and soon without grace.
        """
        now = self._clock()
        with self._lock:
            over = self._waiting_bytes - self._max_bytes
            given_up: list[Abandonable] = []
            for call, (nbytes, since) in self._waiting.items():
                is_first = not given_up
                if len(given_up) + 1 >= len(self._waiting) or not (over > 0 or (is_first and behind > 1)):
                    break
                if now - since < _GRACE and not (is_first and behind > _REFUSING):
                    break
                given_up.append(call)
                over -= nbytes
            for call in given_up:  # the core no longer knows the caller of a call that has been ended
                nbytes, _ = self._waiting.pop(call)
                self._given_up[call] = _GivenUp(nbytes, now, call.peer())
                self._waiting_bytes -= nbytes
                self._given_up_bytes += nbytes
        for call in given_up:
            call.abandon(NOT_READ + _CURE)
        while (peer := self._stuck_peer(now)) is not None:
            self._close(peer)

    def _has_room(self, nbytes: int) -> bool:
        return not self.nbytes or self.nbytes + nbytes <= _REFUSING * self._max_bytes

    def _stuck_peer(self, now: float) -> str | None:
        """Return the caller whose connection is to be closed, and forget its answers; None: none is."""
        with self._lock:
            held = self._waiting_bytes + self._given_up_bytes
            if held <= _CLOSING * self._max_bytes or not self._given_up:
                return None
            _, since, peer = next(iter(self._given_up.values()))
            if now - since < _GRACE:
                return None
            self._given_up = {call: kept for call, kept in self._given_up.items() if kept.peer != peer}
            self._waiting = {call: kept for call, kept in self._waiting.items() if call.peer() != peer}
            self._given_up_bytes = sum(kept.nbytes for kept in self._given_up.values())
            self._waiting_bytes = sum(kept.nbytes for kept in self._waiting.values())
            return peer
