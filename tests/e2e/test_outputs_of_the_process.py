"""A server whose log nobody reads, or whose stdout and stderr take nothing, serves and stops as any other."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from onnxserve import Client
from support import zoo
from support.ports import free_port
from support.waiting import until

X = np.ones((1, 3), np.float32)
ONNXSERVE = (sys.executable, "-m", "onnxserve", "serve", "--http-port=-1", "--providers=cpu", "--threads=1")


@pytest.fixture
def root(tmp_path):
    return zoo.write(tmp_path / "models", {"double": zoo.double()})


@contextmanager
def process(command, **streams):
    """A server, which must end by itself after SIGTERM."""
    popen = subprocess.Popen(command, **streams)
    try:
        yield popen
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(60) == 0
    finally:
        popen.kill()
        popen.wait(30)


def listens(port):
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def test_a_log_that_nobody_reads_holds_nothing_up(root):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    flags = ["--models", str(root), "--port=0", "--log-level=debug"]
    with process([*ONNXSERVE, *flags], stdout=subprocess.PIPE, stderr=writing, text=True) as popen:
        os.close(writing)
        address = popen.stdout.readline().split()[-1]
        with Client(address, retries=0, coalesce=False) as client:
            for _ in range(200):  # a line each
                assert client.predict("double", {"x": X}, timeout=30)["y"].tolist() == [[2, 2, 2]]
    assert len(os.read(reading, 1 << 16)) <= 4096
    os.close(reading)
    popen.stdout.close()


@pytest.mark.parametrize("to", [">/dev/full 2>/dev/full", ">&- 2>&- <&-"], ids=["full", "closed"])
def test_streams_that_take_nothing_stop_nothing(root, to):
    port = free_port()
    command = f"exec {' '.join(ONNXSERVE)} --models '{root}' --port={port} {to}"
    with process(["sh", "-c", command]), Client(f"127.0.0.1:{port}") as client:
        until(lambda: listens(port), 60)
        for _ in range(20):
            assert client.predict("double", {"x": X}, timeout=60)["y"].tolist() == [[2, 2, 2]]
