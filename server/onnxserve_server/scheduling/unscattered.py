"""Runs that wait to be scattered, bounded by what they hold: each has the outputs of a whole batch."""

import threading
from collections import deque

from onnxserve_server.scheduling.response_size import nbytes_of
from onnxserve_server.scheduling.running import FinishedRun

# Of small runs several may wait, or the executor idles while a batch is scattered: steps of 64 sequences went at nine
# tenths of the pace. Callers may be slow to read, so of large ones no second one waits.
_MAX_RUNS = 8
_MAX_BYTES = 8 << 20  # of the outputs of all that wait, where it is more than one


class Unscattered:
    """Hands runs from one thread to another, in their order."""

    def __init__(self) -> None:
        self._runs: deque[tuple[FinishedRun | None, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition(threading.Lock())

    def put(self, run: FinishedRun | None) -> None:
        """Add a run, once there is room for it; None says that it was the last one."""
        nbytes = sum(map(nbytes_of, run.columns.values())) if run is not None else 0
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(nbytes))
            self._runs.append((run, nbytes))
            self._bytes += nbytes
            self._changed.notify_all()

    def take(self) -> FinishedRun | None:
        """Wait for the next run and return it."""
        with self._changed:
            self._changed.wait_for(lambda: self._runs)
            run, nbytes = self._runs.popleft()
            self._bytes -= nbytes
            self._changed.notify_all()
        return run

    def _has_room(self, nbytes: int) -> bool:
        return not self._runs or (len(self._runs) < _MAX_RUNS and self._bytes + nbytes <= _MAX_BYTES)
