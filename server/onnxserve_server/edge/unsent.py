"""Answers that are on their way: those of callers that do not read are given up when others need their memory."""

import contextlib
import threading
from typing import Protocol

_SMALL = 4096  # bytes of an answer that are not counted: their number is bounded
_MAX_ANSWERS = 16_384
_COPIES = 2  # of an answer: grpcio holds one, and its core another, until it is sent


class Abandonable(Protocol):
    """A call whose answer is on its way."""

    def abandon(self, why: str) -> None:
        """End it without."""
        ...


class UnsentAnswers:
    """The answers that gRPC's core holds until their callers read them, and their bound in bytes. Thread-safe.

    Attributes:
        nbytes: that all of them take, small ones not counted.
    """

    def __init__(self, max_bytes: int) -> None:
        self.nbytes = 0
        self._max_bytes = max_bytes
        self._calls: dict[Abandonable, int] = {}  # and bytes of each, the one first that has waited longest
        self._lock = threading.Lock()  # of nbytes

    def add(self, call: Abandonable, nbytes: int) -> None:
        """Note that the answer of a call goes out; where there are too many, give up those that wait longest."""
        nbytes *= _COPIES
        self._calls[call] = nbytes
        if nbytes > _SMALL:
            with self._lock:
                self.nbytes += nbytes
            while self.nbytes > self._max_bytes and len(self._calls) > 1:
                self._abandon_the_first()
        elif len(self._calls) > _MAX_ANSWERS:
            self._abandon_the_first()

    def remove(self, call: Abandonable) -> None:
        """Note that an answer is out, or lost."""
        nbytes = self._calls.pop(call, 0)
        if nbytes > _SMALL:
            with self._lock:
                self.nbytes -= nbytes

    def _abandon_the_first(self) -> None:
        with contextlib.suppress(StopIteration, RuntimeError):  # another thread may take it out now
            call = next(iter(self._calls))
            self.remove(call)
            call.abandon(
                "the answer was not read in time, and others needed its memory: read it as it comes, or raise "
                "--all-unsent-bytes"
            )
