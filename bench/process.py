"""A server under measurement: started, waited for, watched, stopped."""

import ctypes
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

LOGS = Path("build/bench/logs")
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a process tree holds at one moment."""

    rss_mb: float
    threads: int
    fds: int

    def __str__(self) -> str:
        return f"{self.rss_mb:.1f} MB resident, {self.threads} threads, {self.fds} descriptors"


class ServerProcess:
    """A server as a child process, from its ready line on; a context manager that stops it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready: str = r"ready on (\S+:\d+)",
        address: str = "",
        env: Mapping[str, str] | None = None,
        ready_s: float = 120,
    ) -> None:
        """Start `command` and wait until its output matches `ready`.

        Args:
            name: what the log file and messages call it.
            command: the program and its arguments.
            ready: a regular expression; its group is the address, unless `address` is given.
            address: HOST:PORT, where the ready line does not have it.
            env: variables on top of this process's own.
            ready_s: how long to wait.

        Raises:
            RuntimeError: it ended, or was not ready in time; the message has the end of its log.
        """
        self.name = name
        LOGS.mkdir(parents=True, exist_ok=True)
        self._log = LOGS / f"{name}.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})})
        try:
            found = self._wait_for(ready, ready_s)
        except BaseException:
            self.stop()
            raise
        self.address = address or found[1]

    def cpu_seconds(self) -> float:
        """CPU time that the process and its living descendants have used, threads that ended included."""
        return sum(map(_cpu_seconds, self._tree()))

    def usage(self) -> Usage:
        """Memory, threads and descriptors, over the process and its descendants."""
        tree = self._tree()
        return Usage(
            rss_mb=sum(process.memory_info().rss for process in tree) / 2**20,
            threads=sum(process.num_threads() for process in tree),
            fds=sum(process.num_fds() for process in tree),
        )

    def stop(self) -> None:
        """End it: asked first, killed when it has not ended within 15 seconds."""
        self._popen.terminate()
        try:
            self._popen.wait(15)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not stop when asked; killing it", file=sys.stderr)
            self._popen.kill()
            self._popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self._popen.pid)
        return [root, *root.children(recursive=True)]

    def _wait_for(self, ready: str, ready_s: float) -> re.Match[str]:
        until = time.monotonic() + ready_s
        while time.monotonic() < until and self._popen.poll() is None:
            if found := re.search(ready, self._log.read_text(errors="replace")):
                return found
            time.sleep(0.05)
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{self.name} did not become ready; the end of {self._log}:\n{tail}")


def _cpu_seconds(process: psutil.Process) -> float:
    """The process's CPU clock: nanoseconds, where /proc/<pid>/stat counts ticks of 10 ms."""
    clock = ctypes.c_int()
    error = _libc.clock_getcpuclockid(process.pid, ctypes.byref(clock))
    if error:
        raise OSError(error, f"{os.strerror(error)}: no CPU clock of process {process.pid}")
    return time.clock_gettime(clock.value)
