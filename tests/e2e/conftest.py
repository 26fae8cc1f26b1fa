"""One server for all tests of a file that has MODELS, on either edge, with its CONFIGS and SETTINGS; and sequences."""

import pytest
import zoo
from stepping import Blocking

from onnxserve import Client


@pytest.fixture(scope="module", params=["lane", "plain"])
def shared(request, serving, tmp_path_factory):
    """The server of this file. Executors run everything: no test of these is about runs on the caller's thread."""
    file = request.module
    root = zoo.write(tmp_path_factory.mktemp("models"), file.MODELS, file.CONFIGS)
    with serving(root, **{"edge": request.param, "inline_us": 0} | getattr(file, "SETTINGS", {})) as server:
        yield server


@pytest.fixture
def server(request, shared):
    """The server, with nothing waiting or running after each test."""
    yield shared
    for model in request.module.MODELS:
        shared.wait_for(model, lambda load: (load.queued_jobs, load.queued_bytes, load.running_jobs) == (0, 0, 0))


@pytest.fixture(params=[False, True], ids=["Client", "AsyncClient"])
def begin(request):
    """Begin a sequence with either client; it ends with the test."""
    ends = []

    def start(target, model="recurrent", **kwargs):
        if request.param:
            sequence = Blocking(target, model, **kwargs)
            ends.append(sequence.end)
        else:
            client = Client(target)
            ends.append(client.close)
            sequence = client.sequence(model, **kwargs)
        ends.append(sequence.close)
        return sequence

    yield start
    for end in reversed(ends):
        end()
