"""Connections to the HTTP port: many, silent, slow, and those that are there when the server stops."""

import base64
import contextlib
import http.client
import json
import selectors
import socket

import numpy as np
import onnx
import pytest

from onnxserve import Client
from onnxserve_server.web import predict, uploads
from onnxserve_server.web import server as web
from support import zoo
from support.asking import HEAD, Http, double, port_of
from support.waiting import until

MODELS = {"double": zoo.double(), "slow": zoo.slow()}
ROW = double(data=[[1, 2, 3]])
ENDLESS = {"model": "slow", "inputs": {"x": {"data": [[1e6]]}}}
MOST = web.MAX_CONNECTIONS
SLOW = HEAD % 1000 + b"{"  # an upload that does not go on


@contextlib.contextmanager
def connected(http, number, sent=b""):
    """So many connections, on each of which so much was sent; at the end the server has let go of them."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(http.connect(sent)) for _ in range(number)]
        yield connections
        for one in connections:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_WR)
                while one.recv(1 << 16):
                    pass


def answer(connection):
    """Status and body of the answer to what was sent."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


def readable(connections):
    """Those on which something came, or the end."""
    with selectors.DefaultSelector() as selector:
        for one in connections:
            selector.register(one, selectors.EVENT_READ)
        ready = {key.fileobj for key, _ in selector.select(0)}
    return [one for one in connections if one in ready]


def closed(connections):
    """Those that the server has closed."""
    return [one for one in readable(connections) if not received(one)]


def received(connection):
    """What came; b"" at the end, which may be a reset."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1 << 16, socket.MSG_PEEK)
    return b""


# Many


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", SLOW], ids=["silent", "half a head", "half a body"])
def test_a_probe_is_answered_whoever_else_is_connected(http_port, sent):
    with connected(http_port, MOST, sent):
        for path in ("/healthz", "/readyz", "/metrics"):
            assert http_port.status(path) == 200


def test_so_many_connections_are_kept_and_the_longest_silent_ones_closed(http_port):
    with connected(http_port, MOST) as first:
        assert closed(first) == []
        first[0].sendall(b"GET / HTTP/1.1\r\n")  # no longer the one that was silent for longest
        until(lambda: http_port.status("/healthz") == 200)  # closes one, and ends: it is the place of the next
        with connected(http_port, 10):
            until(lambda: len(closed(first)) >= 10)
            gone = closed(first)
            assert gone == first[1 : 1 + len(gone)]
            assert len(gone) <= 11


def test_who_waits_for_an_answer_is_not_closed_for_others(http_server, http_port):
    with http_port.send(ENDLESS) as waiting:
        http_server.wait_for("slow", lambda load: load.running_jobs == 1)
        with connected(http_port, MOST) as others:
            until(lambda: closed(others))
            assert http_port.status("/healthz") == 200
        assert closed([waiting]) == []
        assert http_server.load("slow").running_jobs == 1


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"], ids=["silent", "half a head"])
def test_a_connection_that_asks_nothing_is_closed_after_a_while(http_port, monkeypatch, sent):
    monkeypatch.setattr(web, "_HEAD_TIMEOUT", 0.2)
    with http_port.connect(sent) as connection:
        assert connection.recv(1) == b""


def test_answers_are_sent_without_waiting_for_acknowledgements(http_server, http_port):
    with http_port.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"
        (ours,) = http_server.app._http._server.server_state.connections
        assert ours.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# Slow


def test_slow_senders_keep_nobody_out(http_port):
    with connected(http_port, 2 * predict.MAX_CONCURRENT, SLOW) as slow:
        for _ in range(3):
            status, reply = http_port.predict(ROW)
            assert status == 200, reply
        assert readable(slow) == []  # they may go on


def test_bodies_on_their_way_share_a_bound_and_the_first_makes_room(http_port, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BUFFERED", 1 << 20)
    body = json.dumps(ROW).encode()
    padded = body + b" " * (700_000 - len(body))
    nearly_all = HEAD % len(padded) + padded[:-1]
    with http_port.connect(nearly_all) as first, http_port.connect(nearly_all) as second:
        status, error = answer(first)
        assert (status, error["code"]) == (429, "RESOURCE_EXHAUSTED")
        assert "arrived too slowly" in error["message"]
        second.sendall(b" ")
        assert answer(second)[0] == 200


def test_each_of_many_whole_bodies_is_read(http_port):
    """As many as are taken at a time, each as large as may be: they fit, so that nobody is sent away."""
    body = json.dumps(ROW).encode()
    body += b" " * (uploads.MAX_BODY - len(body))
    with connected(http_port, predict.MAX_CONCURRENT, HEAD % len(body) + body[:-1]) as sent:
        for one in sent:
            one.sendall(b" ")
            assert answer(one)[0] == 200


# At the end


def test_uploads_and_unread_answers_at_the_end_are_no_errors(launch):
    process = launch(
        {"double": zoo.double(), "wide": zoo.identity(onnx.TensorProto.FLOAT)},
        "--http-port",
        0,
        "--drain-timeout",
        1,
        configs={"wide": "batching: {max_rows: 1000000, max_queue_rows: 2000000}\n"},
    )
    http = Http(port_of(process.log))
    values = {"shape": [500_000, 2], "base64": base64.b64encode(bytes(4_000_000)).decode()}
    with http.connect(SLOW) as sending, http.connect() as not_reading, http.connect() as idle:
        text = json.dumps({"model": "wide", "inputs": {"x": values}}).encode()
        not_reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        not_reading.sendall(HEAD % len(text) + text)
        assert not_reading.recv(12) == b"HTTP/1.1 200"
        assert process.stop()[0] == 0
        assert (received(sending), received(idle)) == (b"", b"")
    assert not [line for line in process.log.read_text().splitlines() if " INFO " not in line]


# Both families


def has_both_families():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return socket.has_dualstack_ipv6()
    return False


@pytest.mark.skipif(not has_both_families(), reason="this machine has no IPv6")
def test_on_all_addresses_both_ports_serve_both_families(serving, tmp_path):
    with serving(zoo.write(tmp_path, {"double": zoo.double()}), host="::", http_port=0) as running:
        for host in ("127.0.0.1", "[::1]"):
            with Client(f"{host}:{running.app.port}") as client:
                client.predict("double", {"x": np.zeros((1, 3), np.float32)})
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, running.app.http_port), timeout=10) as connection:
                connection.sendall(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert connection.recv(12) == b"HTTP/1.1 200"
