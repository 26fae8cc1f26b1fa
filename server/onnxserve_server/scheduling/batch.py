"""Jobs that share one run, and the right to run them."""

import threading
from collections.abc import Callable

from onnxserve_server.core import Job


class Slot:
    """The right to run one batch at a time, and where the executor that owns it sleeps.

    While the executor sleeps, another thread may run a batch in its slot: there are never more runs than slots.
    `free_since` is when the slot's last run ended. It sleeps on a bare lock: a Condition costs several times as much.
    """

    __slots__ = ("_lock", "free_since")

    def __init__(self) -> None:
        self.free_since = 0.0
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        """Let sleep() return."""
        self._lock.release()

    def sleep(self, seconds: float | None) -> bool:
        """Sleep until wake() or for so many seconds; return whether it was wake()."""
        return self._lock.acquire(timeout=-1 if seconds is None else seconds)


class Batch:
    """Jobs that share one run, in the order of their rows, and the slot that they run in.

    When the last member leaves, the run is stopped.

    Attributes:
        key: what its jobs have in common; None where nothing but the model.
        formed: when it was put together.
    """

    __slots__ = ("_stop", "abandoned", "formed", "free_since", "jobs", "key", "live", "rows", "slot")

    def __init__(self, jobs: list[Job], rows: int, slot: Slot, formed: float = 0.0) -> None:
        self.jobs = jobs
        self.key = jobs[0].key if jobs else None
        self.formed = formed
        self.rows = rows
        self.live = len(jobs)
        self.slot = slot
        self.free_since = slot.free_since
        self.abandoned = False
        self._stop: Callable[[], None] | None = None

    def arm(self, stop: Callable[[], None]) -> None:
        """Name the call that stops the run. It is made at once when everybody has left already."""
        self._stop = stop
        if self.abandoned:
            stop()

    def abandon(self) -> None:
        """Stop the run: nobody waits for it."""
        self.abandoned = True
        if self._stop is not None:
            self._stop()
