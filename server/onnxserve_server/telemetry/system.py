"""Figures of this process and its container, as the kernel tells them. What cannot be read is left out."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from onnxserve_server.runtime.resources import Resources, resources
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.points import Labels, Metric

_PROC = Path("/proc/self")
_CGROUP = Path("/sys/fs/cgroup")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int((_PROC / "statm").read_text().split()[1]) * _PAGE


class System:
    """Reads the figures; `cgroup` is where the kernel shows control groups (version 2)."""

    def __init__(self, cgroup: Path = _CGROUP) -> None:
        self._started = time.monotonic()
        self._granted: Resources = resources(cgroup)
        self._cgroup = _own_group(cgroup)

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
            (catalogue.CONTAINER_MEMORY, _number(self._cgroup / "memory.current")),
            (catalogue.THROTTLED, _throttled(self._cgroup / "cpu.stat")),
        )
        labels: Labels = ()
        for instrument, value in figures:
            if value is not None:
                yield Metric(instrument, [(labels, float(value))])


def _own_group(root: Path) -> Path:
    """Return the folder of this process's control group; in a container that is the root of what it sees."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return root
    path = next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")
    own = root / path
    return own if (own / "memory.current").exists() else root


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _throttled(path: Path) -> float | None:
    try:
        words = dict(line.split() for line in path.read_text().splitlines())
        return int(words["throttled_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return None
