"""The child process that probes models, as its parent sees it: lines of JSON, bounded in time and memory."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

from onnxserve_server.runtime import probe
from onnxserve_server.runtime.resources import cpu_seconds, resident_bytes

_GLANCE = 50.0  # milliseconds between two looks at memory and the stop signal
_CLOSING = 5.0  # seconds for a child to end by itself
_PIECE = 1 << 16


class ProbeEnded(Exception):
    """The child has ended, with a `status` of its own or, without one, because it was to; the text says how.

    `is_late`: because it had not answered in time, which may be the fault of whatever else the machine does.
    """

    def __init__(self, how: str, status: int | None = None, *, is_late: bool = False) -> None:
        super().__init__(how)
        self.status, self.is_late = status, is_late


class Bounds(NamedTuple):
    """What the child may take for its next message: seconds, seconds of CPU time, and bytes of resident memory."""

    seconds: float
    cpu_seconds: float
    memory_bytes: int


class ProbeProcess:
    """A child process. `stop`: once it is set, the child is ended."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._popen = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", probe.__name__, str(os.getpid())],  # -P: not from the working directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is for the server to handle
        )
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._stdin, self._stdout = self._popen.stdin, self._popen.stdout
        self._unread = b""

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._popen.poll()

    def send(self, request: dict[str, Any]) -> None:
        """Send a request.

        Raises:
            ProbeEnded: the child has ended.
        """
        try:
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise self._end() from None

    def receive(self, bounds: Bounds) -> dict[str, Any]:
        """Return the next message.

        Raises:
            ProbeEnded: the child has ended; or it was ended, because it took more than it may, or the stop signal is
                set.
        """
        began, cpu = time.monotonic(), cpu_seconds(self._popen.pid)
        readable = select.poll()  # not select(), which takes no descriptor above 1023: a server may have more
        readable.register(self._stdout, select.POLLIN)
        while b"\n" not in self._unread:
            if self._stop.is_set():
                raise self._kill("the server stops")
            if time.monotonic() > began + bounds.seconds:
                raise self._kill(f"it took longer than {bounds.seconds:.3g} s", is_late=True)
            if cpu_seconds(self._popen.pid) > cpu + bounds.cpu_seconds:
                raise self._kill(f"it took more than {bounds.cpu_seconds:g} s of CPU time")
            if resident_bytes(self._popen.pid) > bounds.memory_bytes:
                raise self._kill(f"it took more than {bounds.memory_bytes >> 20} MiB of memory")
            if readable.poll(_GLANCE):
                piece = os.read(self._stdout.fileno(), _PIECE)
                if not piece:
                    raise self._end()
                self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """End the child."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._wait()
        self._stdout.close()

    def _end(self) -> ProbeEnded:
        """Wait for a child that ends, and return how it did."""
        status = self._wait()
        return ProbeEnded(f"killed by signal {-status}" if status < 0 else f"exit status {status}", status)

    def _kill(self, why: str, *, is_late: bool = False) -> ProbeEnded:
        self._popen.kill()
        return ProbeEnded(why, is_late=is_late)

    def _wait(self) -> int:
        try:
            return self._popen.wait(_CLOSING)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()
