"""Answers that are on their way: those of callers that do not read are given up when others need their memory.

Beyond the bound the answers that wait longest are given up. That alone frees nothing while a connection takes no more
bytes: the core keeps them until its write is over. So where they stay, the connection is closed; and until the core has
let go, no further large answer goes out.
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import Protocol

from onnxserve_server.errors import NotReceived

_SMALL = 4096  # bytes of an answer that are not counted: their number is bounded
_MAX_SMALL = 16_384
# Bytes of memory for each of an answer until it is sent, as measured: grpcio's and the core's, and, of streams, what is
# behind it.
_OF_CALLS, _OF_STREAMS = 3, 7
_CLOSING, _REFUSING = 1.125, 1.25  # times the bound, from where on connections are closed, and answers refused

NOT_READ = "the answer was not read in time, and others needed its memory: read it as it comes, or raise "
NO_ROOM = "too many answers are not read by their callers: try again later, read answers as they come, or raise "
_CURE = "--all-unsent-bytes"

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's mallopt()
_LARGE_BLOCK = 256 << 10  # bytes


class Abandonable(Protocol):
    """A call whose answer is on its way."""

    def abandon(self, why: str) -> None:
        """End it without."""
        ...

    def peer(self) -> str:
        """Return its caller as the core names it."""
        ...


class UnsentAnswers:
    """The answers that gRPC's core holds until their callers read them, and their bound in bytes. Thread-safe.

    Args:
        max_bytes: of all answers together; one may be larger.
        close: closes the connection of a caller.

    Attributes:
        nbytes: that all of them take, small ones not counted, until the core has let go of them.
    """

    def __init__(self, max_bytes: int, close: Callable[[str], None] = lambda _: None) -> None:
        self.nbytes = 0
        self._max_bytes = max_bytes
        self._close = close
        self._returns_memory = False
        self._small: dict[Abandonable, None] = {}
        self._lock = threading.Lock()  # of what follows; each of these has the call first that has waited longest
        self._sizes: dict[Abandonable, int] = {}  # of all that the core holds
        self._waiting: dict[Abandonable, int] = {}  # of those that may still be read
        self._waiting_bytes = 0
        self._given_up: dict[Abandonable, tuple[int, str]] = {}  # and callers, of those whose connection is not closed
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
            if self.nbytes and self.nbytes + nbytes > _REFUSING * self._max_bytes:
                raise NotReceived(NO_ROOM + _CURE)
            self.nbytes += nbytes
            self._sizes[call] = self._waiting[call] = nbytes
            self._waiting_bytes += nbytes
            fits = self._waiting_bytes + self._given_up_bytes <= self._max_bytes
        if not fits:
            self.make_room()

    def remove(self, call: Abandonable) -> None:
        """Note that an answer is out, or lost."""
        self._small.pop(call, None)
        if call in self._sizes:
            with self._lock:
                self.nbytes -= self._sizes.pop(call, 0)
                self._waiting_bytes -= self._waiting.pop(call, 0)
                self._given_up_bytes -= self._given_up.pop(call, (0, ""))[0]

    def make_room(self, *, at_once: bool = False) -> None:
        """Give up answers beyond the bound; `at_once`: the one that waits longest anyway."""
        with self._lock:
            over = self._waiting_bytes - self._max_bytes
            given_up: list[Abandonable] = []
            for call, nbytes in self._waiting.items():
                if len(given_up) + 1 >= len(self._waiting) or (over <= 0 and not at_once):
                    break
                given_up.append(call)
                at_once = False
                over -= nbytes
            for call in given_up:  # the core no longer knows the caller of a call that has been ended
                nbytes = self._waiting.pop(call)
                self._given_up[call] = nbytes, call.peer()
                self._waiting_bytes -= nbytes
                self._given_up_bytes += nbytes
        for call in given_up:
            call.abandon(NOT_READ + _CURE)
        if given_up and not self._returns_memory:
            self._returns_memory = True
            _return_memory()
        while (peer := self._stuck_peer()) is not None:
            self._close(peer)
            _return_memory()

    def _stuck_peer(self) -> str | None:
        """Return the caller whose connection is to be closed, and forget its answers; None: none is."""
        with self._lock:
            held = self._waiting_bytes + self._given_up_bytes
            if held <= _CLOSING * self._max_bytes or not self._given_up:
                return None
            _, peer = next(iter(self._given_up.values()))
            self._given_up = {call: kept for call, kept in self._given_up.items() if kept[1] != peer}
            self._waiting = {call: nbytes for call, nbytes in self._waiting.items() if call.peer() != peer}
            self._given_up_bytes = sum(nbytes for nbytes, _ in self._given_up.values())
            self._waiting_bytes = sum(self._waiting.values())
            return peer


def _return_memory() -> None:
    """Have the allocator give what is free back to the system, and large blocks from now on as they are freed.

    By itself glibc keeps megabytes that were once freed, in each thread's arena, and so beside what is held.
    """
    with contextlib.suppress(AttributeError, OSError):  # another libc
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGE_BLOCK)
        libc.malloc_trim(0)
