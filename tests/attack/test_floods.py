"""Floods of what HTTP/2 allows, in a container of 1 GiB: it lives, and another caller's requests go on being answered.

They are counted, not timed: attackers, server and caller share the CPUs of this machine.
"""

import resource
import sys

import numpy as np
import pytest

from onnxserve import Client, OnnxserveError
from support import flooding, zoo
from support.asking import Http, port_of
from support.cgroups import limited
from support.http2 import Connection
from support.waiting import until

GIB = 1 << 30
MODELS = {"double": zoo.double(), "wide": zoo.widening()}
KINDS = [
    flooding.resets,
    flooding.pings,
    flooding.settings,
    flooding.headers,
    flooding.unread,
    flooding.unread_streams,
    flooding.packed,
]
FLOODS = [(kind, ("--edge", "lane")) for kind in KINDS]
FLOODS += [(kind, ("--edge", "plain")) for kind in (flooding.headers, flooding.unread, flooding.unread_streams)]


@pytest.fixture
def container(launch):
    with limited(2, GIB) as limits:
        yield lambda *flags, within=(): (launch(MODELS, *flags, within=(*within, *limits.within)), limits)


def ask(client):
    assert client.predict("double", {"x": np.ones((1, 3), np.float32)}, timeout=60)["y"].tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(("kind", "flags"), FLOODS, ids=[f"{kind.__name__}-{flags[1]}" for kind, flags in FLOODS])
def test_a_flood_neither_ends_the_server_nor_keeps_others_out(container, attack, kind, flags):
    server, limits = container(*flags)
    seconds, processes = attack.size(2, 10), attack.size(1, 4)
    answers = 0
    with Client(server.address, retries=0) as client:
        ask(client)
        for _ in range(5):
            with flooding.flood(kind, server.address, processes, seconds) as sent:
                while not sent.ready():
                    ask(client)
                    answers += not sent.ready()  # one that comes after the flood shows nothing
            if answers:  # on a busy machine one may take as long as the flood
                break
        ask(client)
    name = f"{kind.__name__} ({flags[1]})"
    attack.count(f"{name} sent", sum(sent.get(60)))
    attack.count(f"answers beside {name}", answers)
    attack.count(f"MiB at most under {name}", limits.peak_memory >> 20)
    assert answers > 0
    assert limits.peak_memory < GIB
    assert server.stop()[0] == 0


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {1}))
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize(("soft", "hard"), [(1024, 20_000), (1024, 1024)])
def test_idle_connections_take_no_descriptors_that_others_need(container, attack, soft, hard):
    number = 1100
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard_limit < number + 200:
        pytest.skip(f"this process may open {hard_limit} files, too few to hold {number} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    server, limits = container("--http-port", 0, within=(sys.executable, "-c", LIMITED.format(soft, hard)))
    connections = [Connection(server.address) for _ in range(number)]
    attack.count("idle connections", number)
    try:
        with Client(server.address, retries=4) as client:
            until(lambda: answered(client), 60)
            for _ in range(3):
                ask(client)
        assert Http(port_of(server.log)).status("/healthz") == 200
        assert limits.peak_memory < GIB
    finally:
        for connection in connections:
            connection.socket.close()
    assert server.stop()[0] == 0


def answered(client):
    """Whether a request on a new connection is answered: idle ones make room within seconds."""
    try:
        ask(client)
    except OnnxserveError:
        return False
    return True
