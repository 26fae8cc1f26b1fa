"""What all tests share: a real server on a free port of the loopback interface, over either edge."""

import contextlib
import threading
from dataclasses import dataclass

import pytest
import zoo

from onnxserve import Client
from onnxserve_server.app import App
from onnxserve_server.settings import load_settings


@dataclass
class Running:
    """A server in this process."""

    app: App
    address: str
    client: Client

    def load(self, model):
        """What waits and runs for a model now."""
        return next(served for served in self.app.engine.models() if served.spec.name == model).load()

    def wait_for(self, model, condition, timeout=10.0):
        """Wait until a condition on load() of a model holds."""
        deadline = threading.Event()
        for _ in range(int(timeout / 0.002)):
            load = self.load(model)
            if condition(load):
                return load
            deadline.wait(0.002)
        raise AssertionError(f"{model} did not get there within {timeout} s: {self.load(model)}")


@contextlib.contextmanager
def running(root, **settings):
    """Serve a repository until the block ends; then every job must have ended and nothing be left in the books."""
    app = App(
        load_settings(**{"models": root, "port": 0, "providers": "cpu", "threads": 1, "drain_timeout": 5.0} | settings)
    )
    stop, ready, told = threading.Event(), threading.Event(), []

    def serve():
        try:
            app.run(stop, lambda address: (told.append(address), ready.set()))
        except BaseException as error:
            told.append(error)
            ready.set()
            raise

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(60)
    if isinstance(told[0], BaseException):
        thread.join()
        raise told[0]
    try:
        with Client(told[0], retries=0) as client:
            yield Running(app, told[0], client)
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"
        for model in app.engine.models():
            load = model.load()
            assert (load.queued_jobs, load.queued_rows, load.queued_bytes, load.running_jobs) == (0, 0, 0, 0)


@pytest.fixture(params=["lane", "plain"])
def edge(request):
    """Both edges in turn: whatever a caller can see is the same over either."""
    return request.param


@pytest.fixture
def serve(tmp_path, edge):
    """Start a server for {name: model}, on the edge of this test; it stops with the test."""
    with contextlib.ExitStack() as stack:

        def start(models, configs=None, **settings):
            root = zoo.write(tmp_path / f"models{len(list(tmp_path.iterdir()))}", models, configs)
            return stack.enter_context(running(root, **{"edge": edge} | settings))

        yield start
