"""A server that gets a signal before it serves ends at once: nobody has called yet, and loading may take minutes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import zoo
from support.waiting import until

ENDED = 128 + signal.SIGTERM
ONNXSERVE = (sys.executable, "-m", "onnxserve")
WITHIN = 3  # seconds; a start takes about one

IN_A_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child")


def can_unshare():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_A_NAMESPACE, "true"], check=False, capture_output=True).returncode == 0


@pytest.fixture
def start(tmp_path):
    """Start a server for a model, and do not wait until it is ready; its log is tmp_path / "log"."""
    started = []

    def start(model, *within):
        root = zoo.write(tmp_path / "models", {"model": model})
        flags = ("--models", root, "--port", 0, "--http-port", -1, "--providers", "cpu", "--threads", 1)
        with (tmp_path / "log").open("w") as log:
            command = [*within, *ONNXSERVE, "serve", *map(str, flags)]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    yield start
    for popen in started:
        popen.kill()
        popen.wait(30)


def children(pid):
    """The processes that the main thread of a process has started and that still live."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_ended(pid):
    """Whether a process is gone, or waits for its new parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.5, 1])
def test_a_sigterm_ends_it_whenever_it_comes(start, delay):
    """By the kernel's hand, by ours, or by a drain: as far as it has come."""
    server = start(zoo.double())
    time.sleep(delay)
    server.terminate()
    assert server.wait(WITHIN) in (-signal.SIGTERM, ENDED, 0)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_it_does_not_wait_for_the_model_at_hand(start, tmp_path, sig):
    server = start(zoo.slow(factor=1e9))  # its trial takes days
    until(lambda: "loading model" in (tmp_path / "log").read_text(), 30)
    (trial,) = until(lambda: children(server.pid), 30)
    server.send_signal(sig)
    assert server.wait(WITHIN) == 128 + sig
    until(lambda: has_ended(trial))
    assert f"stopped by {sig.name}" in (tmp_path / "log").read_text()


@pytest.mark.skipif(not can_unshare(), reason="no PID namespace can be made here; it takes root")
def test_as_the_first_process_of_a_container_it_hears_a_sigterm_before_it_imports_the_server(start):
    """To such a process the kernel gives no signal that it has no handler for."""
    unshare = start(zoo.double(), *IN_A_NAMESPACE)
    (server,) = until(lambda: children(unshare.pid), 30)
    until(lambda: handles(server, signal.SIGTERM), 30, every=0.0005)
    assert "onnxruntime" not in Path(f"/proc/{server}/maps").read_text()
    os.kill(server, signal.SIGTERM)
    assert unshare.wait(WITHIN) == ENDED


def handles(pid, sig):
    """Whether a process has a handler for a signal."""
    (mask,) = (line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigCgt" in line)
    return int(mask, 16) >> (sig - 1) & 1
