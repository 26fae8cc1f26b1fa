"""Metrics over the life of a model: gauges go when it stops, counters stay and never turn back."""

import math
import threading
from types import SimpleNamespace

import pytest

from onnxserve_server.core import Step
from onnxserve_server.engine.engine import Engine
from onnxserve_server.engine.model import ServedModel
from onnxserve_server.engine.stream_sequences import StreamSequences
from onnxserve_server.engine.table import Table
from onnxserve_server.errors import ModelNotFound, ModelStopped
from onnxserve_server.repository.load_status import LoadStatuses
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.recorder import OTHER
from onnxserve_server.telemetry.telemetry import Options, Telemetry
from support.engines import make_services, make_sources
from support.recurrent import Session, request, spec
from support.waiting import until


class Server:
    """A table of recurrent models and the telemetry that watches them, on a clock that a test moves."""

    def __init__(self, clock):
        table = Table()
        self.telemetry = Telemetry(Options(), clock, make_sources(Engine(table, make_services(clock))))
        self.services = make_services(clock, observer=self.telemetry.recorder)
        self.engine = Engine(table, self.services)
        self.statuses = LoadStatuses()
        self.models = {}

    def load(self, name, **fields):
        loading = self.statuses.begin(name, "1")
        self.telemetry.on_model_change(loading)
        self.models[name] = ServedModel(spec(name=name, **fields), Session(), self.services)
        self.models[name].start()
        self.engine.table.add(self.models[name])
        self.telemetry.on_model_change(self.statuses.succeed(loading, memory_bytes=1 << 20))

    def stop(self, name):
        model = self.models.pop(name)
        self.engine.table.remove(model)
        model.stop()
        self.telemetry.on_model_change(self.statuses.stop(name, "1"))

    def run(self, name, sequences):
        """Run a step of a sequence, until it is counted."""
        rows = self.points("counter", name).get("onnxserve.rows", 0)
        sequences.submit(request(1.0, name), Step(sequence="s"), lambda _: None, lambda: None)
        self.engine.flush()
        until(lambda: self.points("counter", name).get("onnxserve.rows", 0) == rows + 1)

    def points(self, kind, name):
        """What metrics of a kind say of a model, by metric; histograms by the number of their values."""
        found = {}
        for metric in self.telemetry.metrics.collect():
            for labels, value in metric.points:
                if name in labels and metric.instrument.kind == kind:
                    found[metric.instrument.name] = value.counts.sum() if kind == "histogram" else value
        return found


@pytest.fixture
def server(clock):
    server = Server(clock)
    yield server
    for name in list(server.models):
        server.stop(name)


def test_the_gauges_of_a_stopped_model_go_and_those_of_others_stay(server):
    server.load("gone")
    server.load("kept")
    gauges = server.points("gauge", "gone")
    assert gauges.keys() >= {"onnxserve.model.info", "onnxserve.queue.rows", "onnxserve.sequences.live"}
    assert gauges["onnxserve.model.memory"] == 1 << 20
    kept = server.points("gauge", "kept")
    server.stop("gone")
    assert server.points("gauge", "gone") == {}
    assert server.points("gauge", "kept") == kept
    server.load("gone")
    assert server.points("gauge", "gone").keys() == gauges.keys()


def test_the_counts_of_a_stopped_model_stay_and_go_on_when_it_is_loaded_again(server):
    server.load("m")
    server.run("m", StreamSequences(server.engine))
    counters, histograms = server.points("counter", "m"), server.points("histogram", "m")
    assert counters["onnxserve.rows"] == counters["onnxserve.model.loads"] == 1
    assert histograms["onnxserve.batch.rows"] == 1
    server.stop("m")
    assert server.points("counter", "m") == counters
    assert server.points("histogram", "m") == histograms
    server.load("m")
    server.run("m", StreamSequences(server.engine))
    assert server.points("counter", "m")["onnxserve.rows"] == 2
    assert server.points("counter", "m")["onnxserve.model.loads"] == 2


def test_requests_for_a_stopped_model_count_as_its_own(server):
    def failures():
        requests = next(one for one in server.telemetry.metrics.collect() if one.instrument is catalogue.REQUESTS)
        return {(labels[0], labels[4]): count for labels, count in requests.points}

    server.load("m")
    server.stop("m")
    for name, error in (("m", ModelStopped()), ("made-up", ModelNotFound("no such model", "made-up"))):
        info = SimpleNamespace(method="Predict", model=name, version="", request_id="", arrived=0.0, trace=None)
        server.telemetry.recorder.on_answer(info, error.code.name, error)
    assert failures() == {("m", "MODEL_STOPPED"): 1, (OTHER, "MODEL_NOT_FOUND"): 1}


def test_evicted_sequences_are_counted_beyond_the_life_of_the_model_that_evicted_them(server, clock):
    def evict():
        server.run("m", StreamSequences(server.engine))
        live = server.models["m"].sequences
        until(lambda: live.expire(clock.now + 11) == math.inf and len(live) == 0)

    def evicted():
        return server.points("counter", "m")["onnxserve.sequences.evicted"]

    server.load("m", idle=10.0)
    evict()
    assert evicted() == 1
    evict()  # not collected before the model stops
    server.stop("m")
    assert evicted() == 2
    server.load("m", idle=10.0)
    evict()
    assert evicted() == 3


def test_evicted_sequences_are_counted_once_though_metrics_are_collected_as_their_model_stops(server, clock):
    over = threading.Event()

    def collect():
        while not over.is_set():
            server.telemetry.metrics.collect()

    collectors = [threading.Thread(target=collect) for _ in range(3)]
    for collector in collectors:
        collector.start()
    try:
        for number in range(1, 101):
            server.load("m", idle=10.0)
            server.models["m"].sequences.evicted += 1
            server.stop("m")
            assert server.points("counter", "m")["onnxserve.sequences.evicted"] == number
    finally:
        over.set()
        for collector in collectors:
            collector.join()
