"""Models that stop, and start again, while the server lives: their callers notice, and nobody else."""

import contextlib
import gc
import threading
from collections import Counter
from itertools import count
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from onnxserve import Client, NotFound, Unavailable
from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve.v1 import model_service_pb2 as model_service
from onnxserve.v1 import model_service_pb2_grpc
from onnxserve_server.errors import ModelStopped
from onnxserve_server.repository.discovery import discover
from onnxserve_server.runtime.prober import Prober
from support import zoo
from support.callers import Callers, generations, predictions, row, sequences, streams
from support.streaming import Line, error_of, output, step
from support.waiting import until

STATEFUL = "state: [{input: s, output: s_out}]"
COUNTING = "state: [{input: total, output: total_out}]\nfeedback: {next: n}"
MODELS = {"double": zoo.double(), "recurrent": zoo.recurrent(), "countdown": zoo.countdown()}
CONFIGS = {"recurrent": STATEFUL, "countdown": COUNTING}
GONE = {f"gone-{name}": model for name, model in MODELS.items()}


@pytest.fixture
def server(serve):
    return serve(MODELS | GONE, CONFIGS | {f"gone-{name}": config for name, config in CONFIGS.items()})


def found(server, name):
    """A model of the server's repository."""
    settings = server.app.settings
    return next(each for each in discover(settings.models, settings.batching_defaults) if each.name == name)


def load(server, name):
    """Have the server load a model of its repository, again."""
    server.app.manager.load(found(server, name))


def predict(name, number=1):
    request = inference.PredictRequest(model=name, request_id=f"{name}-{number}")
    request.inputs.append(encode("x", row(0, number)["x"]))
    return inference.StreamRequest(predict=request)


class Doomed:
    """Callers of the models that are stopped; each goes on until an error comes.

    Attributes:
        ends: the error that ended each, by its kind.
    """

    def __init__(self, client):
        self.ends = {}
        self._answers = dict.fromkeys(("predict", "stream", "sequence", "generate"), 0)
        self._client = client
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in self._answers]

    def start(self):
        for thread in self._threads:
            thread.start()
        until(lambda: min(self._answers.values()) >= 20, 60)

    def join(self):
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self, kind):
        try:
            for _ in getattr(self, f"_{kind}")():
                self._answers[kind] += 1
        except Exception as error:
            self.ends[kind] = error

    def _predict(self):
        while True:
            yield self._client.predict("gone-double", row(1, 1))

    def _stream(self):
        yield from self._client.stream("gone-double", (row(2, number) for number in count()))

    def _sequence(self):
        with self._client.sequence("gone-recurrent") as sequence:
            while True:
                yield sequence.step({"x": np.ones((1, 2), np.float32)})

    def _generate(self):
        with self._client.sequence("gone-countdown") as sequence:
            while True:
                yield from sequence.generate({"n": np.full((1, 1), 1e6, np.float32)}, max_steps=10_000)


def test_stopping_models_under_load_is_noticed_by_their_own_callers_alone(server):
    callers, doomed = Callers(), Doomed(server.client)
    with Client(server.address, retries=0) as client:
        for kind in (predictions, streams, sequences, generations):
            callers.add(kind.__name__, kind(callers, client, kind.__name__), 2)
        with callers.calling():
            doomed.start()
            for name in GONE:
                server.app.manager.stop(name, "1")
            doomed.join()
            callers.go_on()
    assert callers.errors == []
    assert {kind: (type(error), error.reason) for kind, error in doomed.ends.items()} == dict.fromkeys(
        ("predict", "stream", "sequence", "generate"), (Unavailable, "MODEL_STOPPED")
    )
    assert not [thread.name for thread in threading.enumerate() if "gone-" in thread.name]


def test_on_one_stream_the_requests_for_a_stopped_model_alone_fail(server):
    line = Line(server.stub)
    assert output(line.ask(predict("gone-double")))[0, 1] == 2
    server.app.manager.stop("gone-double", "1")
    line.send(predict("double", 1), predict("gone-double", 2), predict("double", 3))
    first, second, third = (next(line) for _ in range(3))
    assert (output(first)[0, 1], output(third)[0, 1]) == (2, 6)
    assert error_of(second)[:2] == (grpc.StatusCode.UNAVAILABLE.value[0], "MODEL_STOPPED")
    load(server, "gone-double")
    assert output(line.ask(predict("gone-double", 4)))[0, 1] == 8


def test_the_sequences_of_a_stopped_model_are_gone_and_say_so(server):
    line = Line(server.stub)
    assert output(line.ask(step("kept", 1)))[0, 0] == 3
    assert output(line.ask(step("lost", 1, model="gone-recurrent")))[0, 0] == 3
    server.app.manager.stop("gone-recurrent", "1")
    assert error_of(line.ask(step("lost", 1, model="gone-recurrent")))[1] == "MODEL_STOPPED"
    assert error_of(line.ask(step("new", 1, model="gone-recurrent")))[1] == "MODEL_STOPPED"
    load(server, "gone-recurrent")
    code, reason, _ = error_of(line.ask(step("lost", 1, model="gone-recurrent")))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "SEQUENCE_EVICTED")
    assert output(line.ask(step("new", 1, model="gone-recurrent")))[0, 0] == 3
    assert output(line.ask(step("kept", 1)))[0, 0] == 4.5


def test_what_waits_for_a_model_that_stops_is_still_answered(serve):
    server = serve({"slow": zoo.slow()}, {"slow": "batching: {max_rows: 1}"})
    stopping = threading.Thread(target=server.app.manager.stop, args=("slow", "1"))
    with server.occupied():
        waiting = [server.send("slow", x=np.ones((1, 1), np.float32)) for _ in range(5)]
        server.wait_for("slow", lambda now: now.queued_jobs == 5)
        stopping.start()
        until(lambda: refused(server, "slow"))
        assert not any(call.done() for call in waiting)
    stopping.join(60)
    assert not stopping.is_alive()
    assert all(call.result(60) for call in waiting)


def refused(server, name):
    try:
        server.app.engine.table.resolve(name)
    except ModelStopped:
        return True
    return False


def test_a_stopped_model_is_told_by_health_and_by_the_model_service_until_it_serves_again(server):
    with grpc.insecure_channel(server.address) as channel:
        health, models = health_pb2_grpc.HealthStub(channel), model_service_pb2_grpc.ModelServiceStub(channel)

        def state():
            model = models.GetModel(model_service.GetModelRequest(model="gone-double")).model
            listed = {each.name: each.state for each in models.ListModels(model_service.ListModelsRequest()).models}
            assert listed["gone-double"] == model.state
            assert len(listed) == len(MODELS | GONE)
            return model.state, health.Check(health_pb2.HealthCheckRequest(service="model/gone-double")).status

        ready = (model_service.MODEL_STATE_READY, health_pb2.HealthCheckResponse.SERVING)
        assert state() == ready
        server.app.manager.stop("gone-double", "1")
        assert state() == (model_service.MODEL_STATE_STOPPED, health_pb2.HealthCheckResponse.NOT_SERVING)
        assert health.Check(health_pb2.HealthCheckRequest(service="")).status == ready[1]
        load(server, "gone-double")
        assert state() == ready


def test_the_gauges_of_a_stopped_model_go_away(server):
    def named():
        metrics = server.app.telemetry.metrics.collect()
        return {
            metric.instrument.name
            for metric in metrics
            if metric.instrument.kind == "gauge" and any("gone-double" in labels for labels, _ in metric.points)
        }

    before = named()
    assert {"onnxserve.model.info", "onnxserve.queue.rows", "onnxserve.model.memory"} <= before
    server.app.manager.stop("gone-double", "1")
    assert named() == set()
    load(server, "gone-double")
    assert named() == before


def test_what_does_not_serve_cannot_be_stopped(server):
    server.app.manager.stop("gone-double", "1")
    with pytest.raises(Exception, match="gone-double/1"):
        server.app.manager.stop("gone-double", "1")
    with pytest.raises(NotFound):
        server.client.predict("nothing", row(0, 0))


def alone(callers, client, kind):
    """Generations without a sequence, one after the other."""

    def work(_):
        for _ in callers.numbers():
            answers = list(client.generate("countdown", {"n": np.full((1, 1), 20, np.float32)}, max_steps=20))
            callers.note(kind, [answer["next"].item() for answer in answers] == [*range(19, -1, -1)])

    return work


def large(callers, client, kind):
    """Requests that are split into several runs."""

    def work(caller):
        for number in callers.numbers():
            x = np.repeat(row(caller, number)["x"], 200, 0)
            callers.note(kind, np.array_equal(client.predict("double", {"x": x})["y"], 2 * x))

    return work


def test_a_version_that_is_loaded_again_takes_the_place_of_the_old_one_and_nothing_is_lost(server):
    callers = Callers()
    with Client(server.address, retries=0) as client:
        for kind in (predictions, large, streams, sequences, generations, alone):
            callers.add(kind.__name__, kind(callers, client, kind.__name__), 2)
        with callers.calling(), Prober() as prober:
            for _ in range(10):
                for name in MODELS:
                    server.app.manager.load(found(server, name), prober)
                callers.go_on(more=1)
    assert callers.errors == []


def own_threads():
    """The names of the server's threads, and how many the kernels have.

    Those of gRPC are left out: its pools start another thread whenever two calls happen to overlap.
    """
    main, comms = Path("/proc/self/comm").read_text(), Counter()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            comms[(thread / "comm").read_text()] += 1
    pythons = [thread.name for thread in threading.enumerate()]
    ours = [name for name in pythons if name.startswith("onnxserve-") and not name.startswith("onnxserve-grpc-")]
    return sorted(ours), comms[main] - len(pythons)


@pytest.mark.parametrize("turns", [100, pytest.param(900, marks=pytest.mark.slow)])
def test_a_thousand_adds_and_removes_leave_nothing_behind(serve, turns):
    server = serve({"double": zoo.double(), "recurrent": zoo.recurrent()}, {"recurrent": STATEFUL})
    app, process = server.app, psutil.Process()
    recurrent = found(server, "recurrent")

    def turn(prober):
        app.manager.stop("recurrent", "1")
        app.manager.load(recurrent, prober)
        line = Line(server.stub)
        assert output(line.ask(step("s", 1)))[0, 0] == 3
        line.close()
        assert list(line.call) == []

    def held():
        gc.collect()
        until(lambda: app.budget.active == 0)
        series = {
            (metric.instrument.name, labels)
            for metric in app.telemetry.metrics.collect()
            for labels, _ in metric.points
        }
        return {
            "threads": until(lambda: (now := own_threads()) == own_threads() and now),  # one may end just now
            "descriptors": min(process.num_fds() for _ in range(20)),  # a file may be read just now
            "subscribers": len(app.engine.services.deadlines._subscribers),
            "series": series,
        }

    with Prober() as prober:
        for _ in range(100):
            turn(prober)
        before, memory = held(), process.memory_info().rss
        for _ in range(turns):
            turn(prober)
        after = held()
        assert [kind for kind in before if after[kind] != before[kind]] == [], (before["threads"], after["threads"])
        assert process.memory_info().rss - memory < 20 << 20  # a session is more than 100 kB
    assert server.client.predict("double", row(0, 3))["y"][0, 1] == 6
