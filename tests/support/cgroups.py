"""Control groups of a test's own, with limits as a container's, where this machine lets us make them."""

import contextlib
import secrets
from pathlib import Path

import pytest

from support.waiting import until

_ROOT = Path("/sys/fs/cgroup")
_PERIOD = 100_000  # µs


class Limited:
    """Control groups beneath those of this process.

    Attributes:
        within: a command that starts another one inside.
    """

    def __init__(self, folders, memory):
        self._memory = memory
        entries = " ".join(f"{folder}/cgroup.procs" for folder in folders)
        # The shell enters and becomes the command, so that all the command does is counted, from the first page on.
        self.within = ("sh", "-c", f'for entry in {entries}; do echo $$ > "$entry"; done; exec "$@"', "sh")

    @property
    def peak_memory(self):
        """The most bytes that were in use inside, caches of files included."""
        names = ("memory.peak", "memory.max_usage_in_bytes")
        return next(int(file.read_text()) for name in names if (file := self._memory / name).exists())


@contextlib.contextmanager
def limited(cpus, memory):
    """Make groups with so many CPUs and bytes of memory; skip the test where that cannot be. Needs root, mostly."""
    name = f"onnxserve-{secrets.token_hex(4)}"
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    quota = str(round(cpus * _PERIOD))
    if (_ROOT / "cgroup.controllers").exists():
        folder = _ROOT / own[""].lstrip("/") / name
        limits = {folder: {"cpu.max": f"{quota} {_PERIOD}", "memory.max": str(memory), "memory.swap.max": "0"}}
    else:
        controllers = {part: path.lstrip("/") for names, path in own.items() for part in names.split(",")}
        cpu, of_memory = (_ROOT / part / controllers.get(part, "") / name for part in ("cpu", "memory"))
        limits = {
            cpu: {"cpu.cfs_period_us": str(_PERIOD), "cpu.cfs_quota_us": quota},
            of_memory: {"memory.limit_in_bytes": str(memory)},
        }
    made = []
    try:
        try:
            for folder, files in limits.items():
                folder.mkdir()
                made.append(folder)
                for file, text in files.items():
                    (folder / file).write_text(text)
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
        yield Limited(made, made[-1])
    finally:
        for folder in made:
            until(lambda folder=folder: _removed(folder))


def _removed(folder):
    with contextlib.suppress(OSError):  # a process that has ended may still be on its way out
        folder.rmdir()
    return not folder.exists()
