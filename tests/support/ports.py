"""Ports for programs that must be told theirs."""

import os
import random
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def free_port():
    """Return a port of 127.0.0.1 that nothing else will get: below those that the kernel gives, by test worker."""
    while True:
        port = 20_000 + 1_000 * _WORKER + random.randrange(1_000)
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
