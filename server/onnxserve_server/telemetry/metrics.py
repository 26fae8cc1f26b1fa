"""All metrics of a server at one moment: its counts so far, and the current state of its parts."""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from onnxserve_server.engine.model import ServedModel
from onnxserve_server.engine.servable import Servable
from onnxserve_server.engine.table import Table
from onnxserve_server.scheduling.backlog import Backlog
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.attribution import Attribution, Meter
from onnxserve_server.telemetry.catalogue import Instrument
from onnxserve_server.telemetry.metric_data import Labels, Metric
from onnxserve_server.telemetry.recorder import Recorder
from onnxserve_server.telemetry.system import System


class OpenStreams(Protocol):
    """The open streams."""

    @property
    def active(self) -> int:
        """How many streams are open."""
        ...

    @property
    def in_flight(self) -> int:
        """How many of their requests are in flight."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The parts of a server that metrics are read from.

    Attributes:
        table: the versions that serve.
        backlog: the requests that wait for all of them.
        streams: the open streams.
    """

    table: Table
    backlog: Backlog
    streams: OpenStreams


class Metrics:
    """Collects them. Thread-safe.

    Args:
        recorder: has the counters and histograms.
        sources: has the gauges.
        meters: readings to divide among the models; see attribution.meters().
    """

    def __init__(self, recorder: Recorder, sources: Sources, meters: list[tuple[Instrument, Meter]]) -> None:
        self._recorder = recorder
        self._sources = sources
        self._system = System()
        self._attribution = Attribution(recorder.compute_seconds, self._threads, meters)
        self._evictions = _Evictions()
        self._gauges: dict[Instrument, dict[Labels, float]] = {}
        self._lock = threading.Lock()

    def note(self, instrument: Instrument, *labels: str, value: float) -> None:
        """Set a gauge of a value that seldom changes."""
        with self._lock:
            self._gauges.setdefault(instrument, {})[labels] = value

    def forget(self, *labels: str) -> None:
        """Remove the gauges with these labels, which note() has set."""
        with self._lock:
            for points in self._gauges.values():
                points.pop(labels, None)

    def collect(self) -> list[Metric]:
        """Return every metric that has a value."""
        with self._lock:
            models = self._sources.table.models()  # not before: the last to count evictions must not know older ones
            stateful = [model for model in models if isinstance(model, ServedModel) and model.spec.state]
            noted = [Metric(instrument, list(points.items())) for instrument, points in self._gauges.items()]
            attributed = list(self._attribution.collect())
            evicted = self._evictions.collect(stateful)
        return [
            *self._recorder.collect(),
            *attributed,
            evicted,
            *_of_models(models),
            *self._of_all(),
            *noted,
            *self._system.collect(),
        ]

    def _threads(self) -> dict[Labels, int]:
        return {(model.spec.name, model.spec.version): model.spec.threads for model in self._sources.table.models()}

    def _of_all(self) -> Iterator[Metric]:
        streams, limit = self._sources.streams, self._sources.backlog.limit
        yield Metric(catalogue.STREAMS, [((), float(streams.active))])
        yield Metric(catalogue.STREAM_REQUESTS, [((), float(streams.in_flight))])
        if limit != math.inf:
            yield Metric(catalogue.ALL_QUEUES_SIZE_LIMIT, [((), float(limit))])


class _Evictions:
    """Counts the evicted sequences of each version, beyond the life of the models that evicted them."""

    def __init__(self) -> None:
        self._counted: dict[ServedModel, int] = {}  # by the models of the last collection
        self._totals: dict[Labels, float] = {}

    def collect(self, models: Sequence[ServedModel]) -> Metric:
        """Return the counts, of models too that were stopped since the last call. For one thread at a time."""
        evicted = {model: model.sequences.evicted for model in {*self._counted, *models}}
        for model, count in evicted.items():
            labels = (model.spec.name, model.spec.version)
            self._totals[labels] = self._totals.get(labels, 0.0) + count - self._counted.get(model, 0)
        self._counted = {model: evicted[model] for model in models}
        return Metric(catalogue.EVICTED, list(self._totals.items()))


def _of_models(models: Sequence[Servable]) -> Iterator[Metric]:
    points: dict[Instrument, list[tuple[Labels, float]]] = {}
    for model in models:
        spec = model.spec
        providers = (spec.providers[0], spec.requested_providers[0])
        points.setdefault(catalogue.MODEL_INFO, []).append(((spec.name, spec.version, *providers), 1.0))
        for instrument, value in _gauges_of(model).items():
            points.setdefault(instrument, []).append(((spec.name, spec.version), float(value)))
    return (Metric(instrument, of_models) for instrument, of_models in points.items())


def _gauges_of(model: Servable) -> dict[Instrument, int]:
    spec, load = model.spec, model.load()
    gauges = {
        catalogue.QUEUE_ROWS: load.queued_rows,
        catalogue.QUEUE_SIZE: load.queued_bytes,
        catalogue.QUEUE_LIMIT: spec.batching.max_queue_rows,
        catalogue.QUEUE_SIZE_LIMIT: spec.batching.max_queue_bytes,
        catalogue.EXECUTORS: spec.instances,
        catalogue.ACTIVE: load.queued_jobs + load.running_jobs,
        catalogue.ACTIVE_ROWS: load.queued_rows + load.running_rows,
    }
    if spec.state and isinstance(model, ServedModel):
        gauges[catalogue.SEQUENCES] = len(model.sequences)
        gauges[catalogue.SEQUENCES_LIMIT] = spec.sequences.max_live
    return gauges
