"""CPU use during a load: of this process, and of the machine."""

import os
import time
from pathlib import Path
from typing import NamedTuple

_STAT = Path("/proc/stat")


class Use(NamedTuple):
    """CPU time over wall time: of this process in cores, of the machine as a fraction of all its cores."""

    own: float = 0.0
    machine: float = 0.0


class Meter:
    """Measures CPU use from its construction on."""

    def __init__(self) -> None:
        self._began, self._own, (self._busy, self._all) = time.perf_counter(), time.process_time(), _ticks()

    def read(self) -> Use:
        """Return the use until now."""
        busy, all_ticks = _ticks()
        return Use(
            own=(time.process_time() - self._own) / max(1e-9, time.perf_counter() - self._began),
            machine=(busy - self._busy) / max(1, all_ticks - self._all),
        )


def count() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def _ticks() -> tuple[int, int]:
    """Return the ticks of all CPUs since the start of the machine: the busy ones, and all; see proc(5)."""
    user, nice, system, idle, waiting, *interrupts = map(int, _STAT.read_text().splitlines()[0].split()[1:9])
    busy = user + nice + system + sum(interrupts)
    return busy, busy + idle + waiting
