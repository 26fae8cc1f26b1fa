"""All metrics of a server at one moment: what was counted, and what its parts hold now."""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from onnxserve_server.engine.model import ServedModel
from onnxserve_server.engine.table import Table
from onnxserve_server.scheduling.backlog import Backlog
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.attribution import Meter, Shares
from onnxserve_server.telemetry.catalogue import Instrument
from onnxserve_server.telemetry.metric_data import Labels, Metric
from onnxserve_server.telemetry.recorder import Recorder
from onnxserve_server.telemetry.system import System


class OpenStreams(Protocol):
    """How many streams there are, and what they hold."""

    @property
    def active(self) -> int:
        """Those that are open."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests of theirs that are not yet answered."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The parts of a server that metrics look at.

    Attributes:
        table: the versions that serve.
        backlog: what waits for all of them.
        streams: those that are open.
    """

    table: Table
    backlog: Backlog
    streams: OpenStreams


class Metrics:
    """Collects them. Thread-safe.

    Args:
        recorder: has what was counted.
        sources: what to look at.
        meters: what is shared out among the models; see attribution.meters().
    """

    def __init__(self, recorder: Recorder, sources: Sources, meters: list[tuple[Instrument, Meter]]) -> None:
        self._recorder = recorder
        self._sources = sources
        self._system = System()
        self._shares = Shares(self._work, meters)
        self._gauges: dict[Instrument, dict[Labels, float]] = {}
        self._lock = threading.Lock()

    def note(self, instrument: Instrument, *labels: str, value: float) -> None:
        """Set a gauge of something that seldom changes."""
        with self._lock:
            self._gauges.setdefault(instrument, {})[labels] = value

    def forget(self, *labels: str) -> None:
        """Let the gauges of something that is gone go, too."""
        with self._lock:
            for points in self._gauges.values():
                points.pop(labels, None)

    def collect(self) -> list[Metric]:
        """Return every metric that has a value."""
        with self._lock:
            noted = [Metric(instrument, list(points.items())) for instrument, points in self._gauges.items()]
            shares = list(self._shares.collect())
        return [
            *self._recorder.collect(),
            *shares,
            *self._of_models(),
            *self._of_all(),
            *noted,
            *self._system.collect(),
        ]

    def _work(self) -> dict[Labels, float]:
        threads = {(model.spec.name, model.spec.version): model.spec.threads for model in self._sources.table.models()}
        return {
            (name, version): seconds * threads.get((name, version), 1)
            for (name, version), seconds in self._recorder.compute_seconds().items()
        }

    def _of_models(self) -> Iterator[Metric]:
        points: dict[Instrument, list[tuple[Labels, float]]] = {}
        for model in self._sources.table.models():
            spec, load = model.spec, model.load()
            labels = (spec.name, spec.version)
            providers = (spec.providers[0], spec.requested_providers[0])
            points.setdefault(catalogue.MODEL_INFO, []).append(((*labels, *providers), 1.0))
            figures = {
                catalogue.QUEUE_ROWS: load.queued_rows,
                catalogue.QUEUE_SIZE: load.queued_bytes,
                catalogue.QUEUE_LIMIT: spec.batching.max_queue_rows,
                catalogue.QUEUE_SIZE_LIMIT: spec.batching.max_queue_bytes,
                catalogue.EXECUTORS: spec.instances,
                catalogue.ACTIVE: load.queued_jobs + load.running_jobs,
                catalogue.ACTIVE_ROWS: load.queued_rows + load.running_rows,
            }
            if spec.state and isinstance(model, ServedModel):
                figures |= {
                    catalogue.SEQUENCES: len(model.sequences),
                    catalogue.SEQUENCES_LIMIT: spec.sequences.max_live,
                    catalogue.EVICTED: model.sequences.evicted,
                }
            for instrument, value in figures.items():
                points.setdefault(instrument, []).append((labels, float(value)))
        return (Metric(instrument, of_models) for instrument, of_models in points.items())

    def _of_all(self) -> Iterator[Metric]:
        streams, limit = self._sources.streams, self._sources.backlog.limit
        yield Metric(catalogue.STREAMS, [((), float(streams.active))])
        yield Metric(catalogue.STREAM_REQUESTS, [((), float(streams.in_flight))])
        if limit != math.inf:
            yield Metric(catalogue.ALL_QUEUES_SIZE_LIMIT, [((), float(limit))])
