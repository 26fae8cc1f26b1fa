"""What this process may use: the CPUs and the memory that the container, not the host, grants."""

import contextlib
import os
import resource
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MAX_DESCRIPTORS = 1 << 20  # no use for more; where the limit is infinite it has to be some number


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """CPUs (a quota may be a fraction) and memory in bytes, None where nothing limits it below the machine's own."""

    cpus: float
    cpus_from: str
    memory_bytes: int
    memory_from: str

    @property
    def threads(self) -> int:
        """Threads that can compute at a time: the CPUs, rounded down, at least 1."""
        return max(1, int(self.cpus))


def resources(cgroup: Path = _CGROUP) -> Resources:
    """Read the limits of this process: the cgroup's (version 2, or 1), the CPU affinity, and the machine's."""
    cpus, cpus_from = float(len(os.sched_getaffinity(0))), "CPU affinity"
    quota = _cpu_quota(cgroup)
    if quota is not None and quota < cpus:
        cpus, cpus_from = quota, "cgroup CPU quota"
    memory, memory_from = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "machine"
    limit = _memory_limit(cgroup)
    if limit is not None and limit < memory:
        memory, memory_from = limit, "cgroup memory limit"
    return Resources(cpus=cpus, cpus_from=cpus_from, memory_bytes=memory, memory_from=memory_from)


def resident_bytes(process: int | str = "self") -> int:
    """Return the resident memory of this process, or of that with an id."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_left() -> int:
    """Return how many bytes of what is granted this process does not hold."""
    return max(0, resources().memory_bytes - resident_bytes())


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has taken, all its threads together."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def raise_descriptor_limit() -> int:
    """Raise the number of files that this process may open to what it may be raised to; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def open_descriptors() -> int:
    """Return how many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _cpu_quota(root: Path) -> float | None:
    quotas = []
    for directory in cgroup_directories(root, "cpu"):
        words = _words(directory / "cpu.max")
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _words(directory / "cpu.cfs_quota_us"), _words(directory / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            quotas.append(int(quota[0]) / int(period[0]))
    return min(quotas, default=None)


def _memory_limit(root: Path) -> int | None:
    limits = []
    for directory in cgroup_directories(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            words = _words(directory / name)
            if words and words[0] != "max":
                limits.append(int(words[0]))
    return min(limits, default=None)


def cgroup_directories(root: Path, controller: str) -> list[Path]:
    """Return the directories that may hold figures of this process's cgroup (version 2, or 1): its own, then upwards.

    In a container the root that it sees is its own cgroup.
    """
    found = [line.split(":", 2) for line in _lines(Path("/proc/self/cgroup")) if line.count(":") >= 2]
    own = [Path(path.lstrip("/")) for _, names, path in found if controller in names.split(",") or not names]
    groups = dict.fromkeys([group for path in own for group in (path, *path.parents)] + [Path()])
    return [base / group for group in groups for base in (root, root / controller)]


def _words(path: Path) -> list[str]:
    lines = _lines(path)
    return lines[0].split() if lines else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
