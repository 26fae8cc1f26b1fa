"""One server for all tests of a file that has MODELS, on either edge, with its CONFIGS and SETTINGS."""

import pytest
import zoo


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
