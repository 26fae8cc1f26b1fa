"""The slowest requests of the last minutes, for people who ask where the time went."""

import math
import threading
from typing import NamedTuple

from onnxserve_server.core import Receipt

_MOST = 20
_WINDOW = 300.0  # seconds


class SlowRequest(NamedTuple):
    """One of the slowest requests: Unix time of its end in seconds, what it was, and where its time went."""

    time: float
    model: str
    version: str
    method: str
    code: str
    seconds: float
    receipt: Receipt | None
    request_id: str


class SlowRequests:
    """Keeps the slowest requests that are offered, each for a few minutes. Thread-safe.

    Attributes:
        bound: seconds; what took no longer than this need not be offered
        until: this Unix time in seconds, when one of those that are kept becomes too old.
    """

    def __init__(self, most: int = _MOST, window: float = _WINDOW) -> None:
        self._most = most
        self._window = window
        self._lock = threading.Lock()
        self._kept: list[SlowRequest] = []
        self.bound = 0.0
        self.until = math.inf

    def offer(self, request: SlowRequest) -> None:
        """Keep a request if it is among the slowest."""
        with self._lock:
            self._keep([*self._kept, request], request.time)

    def slowest(self, now: float) -> list[SlowRequest]:
        """Return them, the slowest first, and forget what is too old; `now` is Unix time in seconds."""
        with self._lock:
            self._keep(self._kept, now)
            return list(self._kept)

    def _keep(self, requests: list[SlowRequest], now: float) -> None:
        recent = [one for one in requests if abs(now - one.time) <= self._window]  # also where the clock is set back
        self._kept = sorted(recent, key=lambda one: -one.seconds)[: self._most]
        full = len(self._kept) == self._most
        self.bound = self._kept[-1].seconds if full else 0.0
        self.until = min(one.time for one in self._kept) + self._window if full else math.inf
