"""One server for all tests of a file that has MODELS, with its CONFIGS and SETTINGS; its page; and sequences."""

import contextlib
import time

import pytest

from onnxserve import Client
from onnxserve_server import sockets
from onnxserve_server.repository.load_status import LoadStatuses
from onnxserve_server.telemetry.telemetry import Options, Telemetry
from onnxserve_server.web.app import make_app
from onnxserve_server.web.server import HttpServer
from onnxserve_server.web.status import ServerStatus
from support import zoo
from support.asking import Http
from support.engines import make_engine, make_sources
from support.stepping import Blocking


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


@pytest.fixture(scope="module")
def http_server(request, serving, tmp_path_factory):
    """The server of a file about the HTTP port."""
    root = zoo.write(tmp_path_factory.mktemp("models"), request.module.MODELS, getattr(request.module, "CONFIGS", None))
    with serving(root, http_port=0, inline_us=0) as running:
        yield running


@pytest.fixture
def http_port(request, http_server):
    """Its HTTP port, with nothing waiting or running after each test."""
    yield Http(http_server.app.http_port)
    for model in request.module.MODELS:
        http_server.wait_for(model, lambda load: (load.queued_jobs, load.running_jobs) == (0, 0))


@pytest.fixture(scope="module")
def driver():
    """A browser; the test is skipped where there is none."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    from support.browsing import CHROMIUM, DRIVER, chromium

    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"{CHROMIUM} and {DRIVER} are not there: run scripts/install-debian.sh")
    with chromium("--window-size=1280,1000") as driver:
        yield driver


@pytest.fixture
def page(driver):
    """The status page in it, of which no script may fail."""
    from support.browsing import Page

    page = Page(driver)
    yield page
    severe = page.severe()
    page.leave()
    assert severe == []


@pytest.fixture
def opened(page, http_server):
    """The page of the file's server."""
    return page.open(http_server.app.http_port)


@pytest.fixture
def bare():
    """The HTTP port of an engine without models; call it with whether it is ready and fill its loads."""
    with contextlib.ExitStack() as stack:

        def start(ready=False):
            engine, loads = make_engine(), LoadStatuses()
            telemetry = Telemetry(Options(), time.monotonic, make_sources(engine))
            status = ServerStatus(engine, loads, lambda: ready, telemetry)
            http = HttpServer(lambda: make_app(status), sockets.listen("127.0.0.1", 0))
            http.start()
            stack.callback(http.stop)
            return http.port, loads

        yield start


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
