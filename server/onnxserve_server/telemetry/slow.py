"""The slowest requests of the last minutes, for people who ask where the time went."""

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
    """Keeps the slowest requests that are offered, each for a few minutes. Thread-safe."""

    def __init__(self, most: int = _MOST, window: float = _WINDOW) -> None:
        self._most = most
        self._window = window
        self._lock = threading.Lock()
        self._kept: list[SlowRequest] = []

    def offer(self, request: SlowRequest) -> None:
        """Keep a request if it is among the slowest."""
        with self._lock:
            kept = [*self._recent(request.time), request]
            self._kept = sorted(kept, key=lambda one: -one.seconds)[: self._most]

    def slowest(self, now: float) -> list[SlowRequest]:
        """Return them, the slowest first; `now` is Unix time in seconds."""
        with self._lock:
            return self._recent(now)

    def _recent(self, now: float) -> list[SlowRequest]:
        return [one for one in self._kept if now - one.time <= self._window]
