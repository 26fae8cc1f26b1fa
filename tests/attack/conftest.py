"""One server on each edge for all tests of a file that has MODELS, with its SETTINGS."""

import grpc
import pytest

from support import zoo


@pytest.fixture(scope="module", params=["lane", "plain"])
def server(request, serving, tmp_path_factory):
    root = zoo.write(tmp_path_factory.mktemp("models"), request.module.MODELS)
    with serving(root, **{"edge": request.param} | getattr(request.module, "SETTINGS", {})) as running:
        yield running


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel
