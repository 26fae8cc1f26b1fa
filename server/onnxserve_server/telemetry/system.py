"""Figures of this process and its container, from the kernel. Figures that cannot be read are left out."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxserve_server.runtime.resources import Resources, cgroup_directories, resident_bytes, resources
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.metric_data import Labels, Metric

_PROC = Path("/proc/self")
_CGROUP = Path("/sys/fs/cgroup")


class System:
    """Reads the figures; `cgroup` is where control groups, of version 2 or 1, are mounted."""

    def __init__(self, cgroup: Path = _CGROUP) -> None:
        self._started = time.monotonic()
        self._granted: Resources = resources(cgroup)
        self._memory = _first(cgroup_directories(cgroup, "memory"), "memory.current", "memory.usage_in_bytes")
        self._cpu = _first(cgroup_directories(cgroup, "cpu"), "cpu.stat")

    def collect(self) -> Iterator[Metric]:
        """Return the figures as they are now."""
        times = os.times()
        yield Metric(catalogue.CPU_TIME, [(("user",), times.user), (("system",), times.system)])
        figures = (
            (catalogue.MEMORY, resident_bytes()),
            (catalogue.THREADS, len(list((_PROC / "task").iterdir()))),
            (catalogue.DESCRIPTORS, len(list((_PROC / "fd").iterdir()))),
            (catalogue.UPTIME, time.monotonic() - self._started),
            (catalogue.CPU_LIMIT, self._granted.cpus),
            (catalogue.MEMORY_LIMIT, self._granted.memory_bytes),
            (catalogue.CONTAINER_MEMORY, _number(self._memory)),
            (catalogue.THROTTLED, _throttled(self._cpu)),
        )
        labels: Labels = ()
        for instrument, value in figures:
            if value is not None:
                yield Metric(instrument, [(labels, float(value))])


def _first(directories: Iterable[Path], *names: str) -> Path | None:
    """Return the first file of one of these names that exists."""
    return next((path for path in (each / name for each in directories for name in names) if path.is_file()), None)


def _number(path: Path | None) -> int | None:
    if path is None:
        return None
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _throttled(path: Path | None) -> float | None:
    if path is None:
        return None
    try:
        words = {name: int(value) for name, value in map(str.split, path.read_text().splitlines())}
    except (OSError, ValueError):
        return None
    if "throttled_usec" in words:
        return words["throttled_usec"] / 1e6
    return words["throttled_time"] / 1e9 if "throttled_time" in words else None  # version 1: nanoseconds
