"""Telemetry as a whole: its parts as the settings want them, from start() to stop()."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.resources import Resource

from onnxserve import __version__
from onnxserve_server.core import Clock
from onnxserve_server.engine.table import Table
from onnxserve_server.repository.load_status import LoadState, LoadStatus
from onnxserve_server.spec import ModelSpec
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.attribution import meters
from onnxserve_server.telemetry.metrics import Metrics, Sources
from onnxserve_server.telemetry.otlp import LogPush, MetricPush, span_processor
from onnxserve_server.telemetry.recorder import Recorder
from onnxserve_server.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

_STOP_TIMEOUT = 5.0  # seconds for the last push


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The settings of telemetry.

    Attributes:
        endpoint: URL to push metrics, traces and logs to by OTLP; "" for none.
        interval: seconds between two pushes of metrics.
        trace_ratio: share to trace of the requests whose callers do not decide it; see Tracing.
    """

    endpoint: str = ""
    interval: float = 60.0
    trace_ratio: float = 0.0


class Telemetry:
    """Counts, traces and pushes.

    Attributes:
        recorder: the observer of requests and runs.
        metrics: all metrics of this server.
        resource: attributes of this server.
    """

    def __init__(self, options: Options, clock: Clock, sources: Sources) -> None:
        self.resource = _resource()
        self._endpoint = options.endpoint
        self._tracing = None
        self._push: MetricPush | None = None
        self._logs: LogPush | None = None
        if options.endpoint and os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() != "true":
            self._tracing = Tracing(clock, options.trace_ratio, span_processor(options.endpoint), self.resource)
        self.recorder = Recorder(clock, _finder(sources.table), self._tracing)
        self.metrics = Metrics(self.recorder, sources, meters())
        if options.endpoint:
            self._push = MetricPush(options.endpoint, options.interval, self.metrics.collect, self.resource)
            self._logs = LogPush(options.endpoint, self.resource)

    @property
    def target(self) -> dict[str, str]:
        """Attributes of this server, as text."""
        return {name: str(value) for name, value in self.resource.attributes.items()}

    def start(self) -> None:
        """Start to push, if there is an endpoint."""
        if self._push is not None:
            self._push.start()
        if self._logs is not None:
            logging.getLogger().addHandler(self._logs)

    def on_model_change(self, status: LoadStatus) -> None:
        """Count a load that has ended; remove the gauges of a version that was stopped."""
        if status.state is LoadState.LOADING:
            return
        self.metrics.collect()  # CPU time of loading must not be charged to the models that run next
        if status.state is LoadState.STOPPED:
            self.metrics.forget(status.model, status.version)
            return
        ok = status.state is LoadState.READY
        self.recorder.count(catalogue.LOADS, status.model, "ok" if ok else "failed")
        if ok:
            self.metrics.note(catalogue.LOAD_DURATION, status.model, status.version, value=status.seconds)
            self.metrics.note(catalogue.MODEL_MEMORY, status.model, status.version, value=float(status.memory_bytes))

    def stop(self) -> None:
        """Push metrics, spans and logs that wait, all at the same time, for a few seconds at most."""
        if self._endpoint:
            logger.info("sending the last telemetry to %s, for %.0f s at most", self._endpoint, _STOP_TIMEOUT)
        if self._logs is not None:
            logging.getLogger().removeHandler(self._logs)
        parts = (
            None if self._logs is None else self._logs.close,
            None if self._push is None else self._push.stop,
            None if self._tracing is None else self._tracing.close,
        )
        threads = [threading.Thread(target=stop, name="onnxserve-otlp-stop", daemon=True) for stop in parts if stop]
        for thread in threads:
            thread.start()
        end = time.monotonic() + _STOP_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


def _finder(table: Table) -> Callable[[str, str], ModelSpec | None]:
    """Return what finds the version that a caller names; a stopped one too, for its refusals count as its own."""

    def find(name: str, version: str) -> ModelSpec | None:
        return table.find(name, version) or table.find_stopped(name, version)

    return find


def _resource() -> Resource:
    """Return the attributes of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, with ours for those that they lack."""
    given = Resource.create()
    ours = {"service.name": "onnxserve", "service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    if not str(given.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
        del ours["service.name"]
    missing = {name: value for name, value in ours.items() if name == "service.name" or name not in given.attributes}
    return given.merge(Resource(missing))
