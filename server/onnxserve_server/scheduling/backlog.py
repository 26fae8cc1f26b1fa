"""The input bytes that wait for all models together: one bound on the memory that callers can make the server hold."""

import math
import threading


class Backlog:
    """Counts the bytes of input that wait. Thread-safe.

    Attributes:
        limit: the most that may wait; a request that is alone may have more.
        nbytes: those that wait now.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.nbytes = 0
        self._lock = threading.Lock()

    def add(self, nbytes: int) -> bool:
        """Count so many bytes more, or return False: there is no room for them."""
        with self._lock:
            if self.nbytes and self.nbytes + nbytes > self.limit:
                return False
            self.nbytes += nbytes
            return True

    def remove(self, nbytes: int) -> None:
        """Count so many bytes less."""
        with self._lock:
            self.nbytes -= nbytes
