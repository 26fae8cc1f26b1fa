"""Servers that listen at paths of Unix sockets, for gRPC and for HTTP."""

import asyncio
import socket
import stat

import numpy as np
import pytest

from onnxserve import AsyncClient, Client
from onnxserve_server.errors import ConfigurationError
from support import zoo

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture
def root(tmp_path):
    return zoo.write(tmp_path / "models", {"double": zoo.double()})


def fetch(path, target):
    """Return the answer to a request at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(GET % target)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize("edge", ["lane", "plain"])
def test_grpc_and_http_are_served_at_paths_which_are_gone_at_the_end(serving, root, tmp_path, edge):
    grpc, http = tmp_path / "grpc.sock", tmp_path / "http.sock"
    x = {"x": np.ones((1, 3), np.float32)}

    async def predict():
        async with AsyncClient(f"unix:{grpc}") as client:
            return await client.predict("double", x)

    with serving(root, edge=edge, address=f"unix:{grpc}", http_address=f"unix:{http}") as server:
        assert server.address == f"unix:{grpc}"
        with Client(server.address) as client:
            assert client.predict("double", x)["y"].tolist() == [[2, 2, 2]]
        assert asyncio.run(predict())["y"].tolist() == [[2, 2, 2]]
        for target in (b"/healthz", b"/api/status", b"/"):
            assert fetch(http, target).startswith(b"HTTP/1.1 200 ")
    assert not grpc.exists()
    assert not http.exists()


def test_a_socket_that_was_left_behind_is_replaced(serving, root, tmp_path):
    paths = [tmp_path / "grpc.sock", tmp_path / "http.sock"]
    for path in paths:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    with serving(root, address=f"unix:{paths[0]}", http_address=f"unix:{paths[1]}") as server:
        assert server.client.ready()
        assert fetch(paths[1], b"/readyz").startswith(b"HTTP/1.1 200 ")


refused = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the start fails


@refused
@pytest.mark.parametrize("setting", ["address", "http_address"])
def test_what_another_server_listens_at_is_left_alone(serving, root, tmp_path, setting):
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ConfigurationError, match="another server does"), serving(root, **{setting: f"unix:{path}"}):
            pass
        assert stat.S_ISSOCK(path.stat().st_mode)


@refused
def test_a_file_in_the_way_is_named_and_left_alone(serving, root, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match="is not a socket"), serving(root, address=f"unix:{path}"):
        pass
    assert path.read_text() == "mine"


@pytest.mark.parametrize("address", ["unix:a.sock", "/run/a.sock", "localhost:8500"])
def test_another_form_of_address_is_refused(serving, root, address):
    with pytest.raises(ConfigurationError, match="expected unix:/path"), serving(root, address=address):
        pass
