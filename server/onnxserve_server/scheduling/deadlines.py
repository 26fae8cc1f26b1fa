"""One thread that keeps deadlines while executors are busy.

It sleeps until the earliest deadline that watch() was called with and then asks every batcher to expire what is due.
Jobs that end in time are not taken back: with calls of like timeouts that is one spurious wake-up a timeout, not one a
call.
"""

import logging
import math
import threading
from collections.abc import Callable

from onnxserve_server.core import Clock

logger = logging.getLogger(__name__)

_MAX_SLEEP = 3600.0  # seconds; callers may name deadlines beyond what the operating system can wait for
_COALESCE = 0.005  # seconds; deadlines that lie closer together are handled in one round
_RETRY = 1.0  # seconds until a subscriber that failed is asked again


class DeadlineWatch:
    """Calls expire(now) of its subscribers when a deadline passes. Each returns its next deadline, inf for none.

    Everything may be called from any thread. A subscriber may still be called once, by a round that has begun, after
    unsubscribe() has returned.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._next = math.inf
        self._wake = threading.Event()
        self._stopped = False
        self._subscribers: tuple[Callable[[float], float], ...] = ()
        self._thread = threading.Thread(target=self._run, name="onnxserve-deadlines", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and end the thread."""
        self._stopped = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def subscribe(self, expire: Callable[[float], float]) -> None:
        """Ask `expire` from now on."""
        with self._lock:
            self._subscribers += (expire,)

    def unsubscribe(self, expire: Callable[[float], float]) -> None:
        """Ask `expire` no more."""
        with self._lock:
            self._subscribers = tuple(subscriber for subscriber in self._subscribers if subscriber != expire)

    def watch(self, deadline: float) -> None:
        """Wake up at `deadline` at the latest. Costs one comparison unless it is the earliest."""
        if deadline < self._next:
            with self._lock:
                self._next = min(self._next, deadline)
            self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            remaining = self._next - self._clock()
            if remaining > 0:
                self._wake.wait(min(remaining, _MAX_SLEEP))
                self._wake.clear()
            else:
                self._expire()

    def _expire(self) -> None:
        with self._lock:
            self._next = math.inf
        now = self._clock()
        following = min((_ask(expire, now) for expire in self._subscribers), default=math.inf)
        with self._lock:  # watch() may have been called with an earlier one meanwhile
            self._next = max(min(self._next, following), now + _COALESCE)


def _ask(expire: Callable[[float], float], now: float) -> float:
    try:
        return expire(now)
    except Exception:  # a defect of ours must not end the thread that keeps everybody's deadlines
        logger.exception("deadlines could not be kept; trying again in %.0f s", _RETRY)
        return now + _RETRY
