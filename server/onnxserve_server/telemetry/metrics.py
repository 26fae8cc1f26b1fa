"""All metrics of a server at one moment: what was counted, and what its parts hold now."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from onnxserve_server.engine.model import ServedModel
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.attribution import Meter, Shares
from onnxserve_server.telemetry.catalogue import Instrument
from onnxserve_server.telemetry.metric_data import Labels, Metric
from onnxserve_server.telemetry.recorder import Recorder
from onnxserve_server.telemetry.system import System


class OpenStreams(Protocol):
    """What is told of streams."""

    @property
    def active(self) -> int:
        """Those that are open."""
        ...

    @property
    def in_hand(self) -> int:
        """Requests of theirs that are not yet answered."""
        ...


class Metrics:
    """Collects them. Thread-safe.

    Args:
        recorder: has what was counted.
        models: gives the models that serve.
        meters: what is shared out among the models; see shares.meters().
    """

    def __init__(
        self,
        recorder: Recorder,
        models: Callable[[], Sequence[ServedModel]],
        meters: list[tuple[Instrument, Meter]],
    ) -> None:
        self._recorder = recorder
        self._models = models
        self._system = System()
        self._shares = Shares(self._work, meters)
        self._gauges: dict[Instrument, dict[Labels, float]] = {}
        self._lock = threading.Lock()
        self.streams: OpenStreams | None = None

    def note(self, instrument: Instrument, *labels: str, value: float) -> None:
        """Set a gauge of something that seldom changes."""
        with self._lock:
            self._gauges.setdefault(instrument, {})[labels] = value

    def collect(self) -> list[Metric]:
        """Return every metric that has a value."""
        with self._lock:
            noted = [Metric(instrument, list(points.items())) for instrument, points in self._gauges.items()]
            shares = list(self._shares.collect())
        return [
            *self._recorder.collect(),
            *shares,
            *self._of_models(),
            *self._of_streams(),
            *noted,
            *self._system.collect(),
        ]

    def _work(self) -> dict[Labels, float]:
        threads = {(model.spec.name, model.spec.version): model.spec.threads for model in self._models()}
        return {
            (name, version): seconds * threads.get((name, version), 1)
            for (name, version), seconds in self._recorder.compute_seconds().items()
        }

    def _of_models(self) -> Iterator[Metric]:
        points: dict[Instrument, list[tuple[Labels, float]]] = {}
        for model in self._models():
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
            if spec.state:
                figures |= {
                    catalogue.SEQUENCES: len(model.sequences),
                    catalogue.SEQUENCES_LIMIT: spec.sequences.most,
                    catalogue.EVICTED: model.sequences.evicted,
                }
            for instrument, value in figures.items():
                points.setdefault(instrument, []).append((labels, float(value)))
        return (Metric(instrument, of_models) for instrument, of_models in points.items())

    def _of_streams(self) -> Iterator[Metric]:
        if self.streams is not None:
            yield Metric(catalogue.STREAMS, [((), float(self.streams.active))])
            yield Metric(catalogue.STREAM_REQUESTS, [((), float(self.streams.in_hand))])
