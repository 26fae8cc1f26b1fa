"""The slowest requests of the last minutes, for the status page."""

import math
import threading
from typing import NamedTuple

from onnxserve_server.core import Receipt

_MAX_KEPT = 20
_WINDOW = 300.0  # seconds


class SlowRequest(NamedTuple):
    """One of the slowest requests. `time` is when it ended, Unix time in seconds; `receipt` is None if it failed."""

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
        bound: seconds; a request that took no longer need not be offered, unless `until` has passed.
        until: when one of the requests that are kept becomes too old, Unix time in seconds.
    """

    def __init__(self, max_kept: int = _MAX_KEPT, window: float = _WINDOW) -> None:
        self._max_kept = max_kept
        self._window = window
        self._lock = threading.Lock()
        self._kept: list[SlowRequest] = []
        self.bound = 0.0
        self.until = math.inf

    def offer(self, request: SlowRequest) -> None:
        """Keep a request if it is one of the slowest."""
        with self._lock:
            self._keep([*self._kept, request], request.time)

    def slowest(self, now: float) -> list[SlowRequest]:
        """Return them, the slowest first, and drop those that are too old; `now` is Unix time in seconds."""
        with self._lock:
            self._keep(self._kept, now)
            return list(self._kept)

    def _keep(self, requests: list[SlowRequest], now: float) -> None:
        recent = [one for one in requests if abs(now - one.time) <= self._window]  # also where the clock is set back
        self._kept = sorted(recent, key=lambda one: -one.seconds)[: self._max_kept]
        full = len(self._kept) == self._max_kept
        self.bound = self._kept[-1].seconds if full else 0.0
        self.until = min(one.time for one in self._kept) + self._window if full else math.inf
