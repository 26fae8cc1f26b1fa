"""The parent of the process that probes models; see probe.py for what that one does."""

import json
import os
import select
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime import probe
from onnxserve_server.runtime.session import SessionOptions
from onnxserve_server.runtime.verdict import Verdict

_TIMEOUT = 300.0  # seconds for one model


class Prober:
    """Keeps one child process that probes models, one at a time; after a crash the next model gets a new child."""

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        self._timeout = timeout
        self._child: subprocess.Popen[str] | None = None

    def probe(self, path: Path, options: SessionOptions) -> Verdict:
        """Load and try a model in the child process.

        Raises:
            ConfigurationError: the model cannot be loaded, took too long, or crashed the child process.
        """
        child = self._running_child()
        reply = self._ask(child, path, json.dumps({"path": str(path), "options": asdict(options)}))
        if not reply:
            status = self._forget(child)
            raise ConfigurationError(
                f"{path}: loading the model ended the process that probes it ({_how(status)}), so it is not loaded "
                f"here; another graph_optimization may help"
            )
        fields = json.loads(reply)
        if "error" in fields:
            raise ConfigurationError(fields["error"])
        return Verdict.of(fields)

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.communicate()
            self._child = None

    def __enter__(self) -> "Prober":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, child: subprocess.Popen[str], path: Path, request: str) -> str:
        """Return the child's reply, a line of JSON; "" if the child has ended."""
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(request + "\n")
            child.stdin.flush()
        except BrokenPipeError:
            return ""
        reply = select.poll()  # not select(), which takes no descriptor above 1023: a server may have more connections
        reply.register(child.stdout, select.POLLIN)
        if not reply.poll(self._timeout * 1e3):
            child.kill()
            self._forget(child)
            raise ConfigurationError(f"{path}: the model could not be loaded and tried within {self._timeout:g} s")
        return child.stdout.readline()

    def _forget(self, child: subprocess.Popen[str]) -> int:
        """Wait for a child that ends, and return its exit status."""
        self._child = None
        return child.wait(self._timeout)

    def _running_child(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", probe.__name__, str(os.getpid())],  # -P: not from the working directory
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # a Ctrl-C at the terminal is for the server to handle
            )
        return self._child


def _how(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
