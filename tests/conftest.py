"""What all tests share: a real server on a free port of the loopback interface, over either edge."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from onnxserve import Client
from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2, inference_service_pb2_grpc
from onnxserve_server.app import App
from onnxserve_server.core import Job
from onnxserve_server.settings import load_settings
from support import zoo
from support.waiting import until

pytest_plugins = ["support.attacking", "support.reporting", "support.tiers"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell without job control starts its background jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Running:
    """A server in this process."""

    app: App
    address: str
    client: Client
    stub: inference_service_pb2_grpc.InferenceServiceStub

    def send(self, model, timeout=None, deadline=None, priority=0, outputs=(), **inputs):
        """Start a call and return its future. `timeout` is the message's own, `deadline` the call's, in seconds."""
        request = inference_service_pb2.PredictRequest(model=model, priority=priority, outputs=outputs)
        request.inputs.extend(encode(name, np.asarray(array)) for name, array in inputs.items())
        if timeout is not None:
            request.timeout.FromNanoseconds(int(timeout * 1e9))
        return self.stub.Predict.future(request, timeout=deadline)

    @contextlib.contextmanager
    def occupied(self, model="slow"):
        """Keep the one executor of a zoo.slow() busy until the block ends; what is sent in the block waits."""
        call = self.send(model, x=np.full((1, 1), 1_000_000, np.float32))
        self.wait_for(model, lambda load: load.running_jobs == 1 and load.queued_jobs == 0)
        try:
            yield
        finally:
            call.cancel()

    def load(self, model):
        """What waits and runs for a model now."""
        return next(served for served in self.app.engine.table.models() if served.spec.name == model).load()

    def wait_for(self, model, condition, timeout=10.0):
        """Wait until a condition on load() of a model holds."""
        return until(lambda: load if condition(load := self.load(model)) else None, timeout)


@contextlib.contextmanager
def running(root, serves_on=None, **settings):
    """Serve a repository until the block ends; then every job must have ended and nothing be left in the counts."""
    app = App(
        load_settings(
            **{"models": root, "port": 0, "http_port": -1, "providers": "cpu", "threads": 1, "drain_timeout": 5.0}
            | settings
        )
    )
    stop, ready, outcome = threading.Event(), threading.Event(), []

    def serve():
        try:
            app.run(stop, lambda address: (outcome.append(address), ready.set()))
        except BaseException as error:
            outcome.append(error)
            ready.set()
            raise

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(60)
    if isinstance(outcome[0], BaseException):
        thread.join()
        raise outcome[0]
    try:
        assert app.edge_name == (serves_on or app.settings.edge)
        with Client(outcome[0], retries=0) as client, grpc.insecure_channel(outcome[0]) as channel:
            yield Running(app, outcome[0], client, inference_service_pb2_grpc.InferenceServiceStub(channel))
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"
        for model in app.engine.table.models():
            load = model.load()
            assert (load.queued_jobs, load.queued_rows, load.queued_bytes, load.running_jobs) == (0, 0, 0, 0)
        assert app.engine.services.backlog.nbytes == 0
        assert app.budget.nbytes == 0


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


@pytest.fixture(scope="session")
def serving():
    """The context manager that serves a repository in this process, for servers that several tests share."""
    return running


@dataclass
class Process:
    """A server in a process of its own, and the file that its log goes to."""

    popen: subprocess.Popen
    address: str
    log: Path

    def stop(self, sig=signal.SIGTERM, timeout=60):
        """Send a signal and wait for the end; returns the exit code and what came to stdout since it was ready."""
        self.popen.send_signal(sig)
        stdout, _ = self.popen.communicate(timeout=timeout)
        return self.popen.returncode, stdout


def command(*arguments, **environment):
    """Run the command line to its end, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "onnxserve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


@pytest.fixture(scope="session")
def onnxserve():
    """The command line: call it with arguments (and environment variables by keyword)."""
    return command


@pytest.fixture
def launch(tmp_path):
    """Start `onnxserve serve` for {name: model} in a process of its own; it is killed with the test.

    `within` is a command that starts it; `threads` None leaves their number to the server.
    """
    started = []

    def start(models, *flags, configs=None, threads=1, within=()):
        number = len(started)
        root = zoo.write(tmp_path / f"launched{number}", models, configs)
        log = tmp_path / f"launched{number}.log"
        with log.open("w") as stderr:
            arguments = (
                "serve",
                "--models",
                root,
                "--port",
                0,
                "--http-port",
                -1,
                "--providers",
                "cpu",
                *(() if threads is None else ("--threads", threads)),
                *flags,
            )
            popen = subprocess.Popen(
                [*within, sys.executable, "-m", "onnxserve", *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        started.append(popen)
        line = popen.stdout.readline()
        assert line.startswith("onnxserve is ready on "), log.read_text()
        return Process(popen, line.split()[-1], log)

    yield start
    for popen in started:
        popen.kill()
        popen.communicate()


class HandClock:
    """A clock that stands still until somebody sets `now`."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return HandClock()


class RecordingJob(Job):
    """A job of one float32 column that keeps what it was ended with, and how often."""

    def __init__(self, rows=1, *, value=0.0, arrived=100.0, priority=0, ageing=1.0, then=lambda: None, **fields):
        self.outcomes = []
        self.over = threading.Event()
        self._then = then
        column = np.full((rows, 1), value, np.float32)
        defaults = {"inputs": (column,), "outputs": (), "nbytes": column.nbytes, "key": None, "deadline": math.inf}
        rank = arrived - priority * ageing
        super().__init__(rows=rows, arrived=arrived, priority=priority, rank=rank, done=self._note, **defaults | fields)

    def _note(self, outcome):
        self.outcomes.append(outcome)
        self.over.set()
        self._then()

    @property
    def outcome(self):
        """The one outcome."""
        assert len(self.outcomes) == 1, self.outcomes
        return self.outcomes[0]


@pytest.fixture(scope="session")
def make_job():
    return RecordingJob
