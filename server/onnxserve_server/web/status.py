"""The server's status, as /api/status gives it to the page: one JSON object of models, loads, and all metrics."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from onnxserve import __version__
from onnxserve.tensor import NAMES
from onnxserve_server.engine.engine import Engine
from onnxserve_server.engine.rules import explain
from onnxserve_server.observing import Observer
from onnxserve_server.repository.load_status import LoadStatuses
from onnxserve_server.spec import ModelSpec, TensorSpec
from onnxserve_server.telemetry.metric_data import Distribution, Metric
from onnxserve_server.telemetry.prometheus import scrape
from onnxserve_server.telemetry.slow_requests import SlowRequest
from onnxserve_server.telemetry.telemetry import Telemetry


class ServerStatus:
    """The status of a running server.

    Args:
        engine: has the models.
        loads: the state of each version.
        ready: returns whether the server serves.
        telemetry: has the metrics; None without.

    Attributes:
        observer: notes the predictions that come by this port; None: nobody does.
    """

    def __init__(
        self, engine: Engine, loads: LoadStatuses, ready: Callable[[], bool], telemetry: Telemetry | None
    ) -> None:
        self.engine = engine
        self.ready = ready
        self.observer: Observer | None = None if telemetry is None else telemetry.recorder
        self._loads = loads
        self._telemetry = telemetry
        self._started = time.time()

    def scrape(self, accept: str) -> tuple[bytes, str] | None:
        """Return all metrics in a format of Prometheus, and its content type; None without telemetry."""
        if self._telemetry is None:
            return None
        return scrape(self._telemetry.metrics.collect(), self._telemetry.target, accept)

    def as_dict(self) -> dict[str, Any]:
        """Return all that the page shows. Times are Unix time in seconds; metrics have their OpenTelemetry names."""
        now = time.time()
        fields: dict[str, Any] = {
            "now": now,
            "started": self._started,
            "version": __version__,
            "ready": self.ready(),
            "draining": self.engine.draining,
            "default_timeout": None if math.isinf(self.engine.default_timeout) else self.engine.default_timeout,
            "models": [_model(model.spec) for model in self.engine.table.models()],
            "loads": [
                {
                    "model": load.model,
                    "version": load.version,
                    "state": load.state,
                    "at": load.at,
                    "error": load.error,
                    "seconds": load.seconds,
                    "memory_bytes": load.memory_bytes,
                }
                for load in self._loads.all()
            ],
            "metrics": None,
            "slow": [],
        }
        if self._telemetry is not None:
            fields["metrics"] = _metrics(self._telemetry.metrics.collect())
            fields["slow"] = [_slow(one) for one in self._telemetry.recorder.slow.slowest(now)]
        return fields

    def as_json(self) -> bytes:
        """Return the same as JSON, in UTF-8."""
        return _to_json(self.as_dict()).encode()


def _to_json(value: Any) -> str:
    """Write JSON a piece at a time: 200 models in one piece would keep the interpreter from requests for 10 ms."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_to_json(part)}" for name, part in value.items()) + "}"
    return json.dumps(value, separators=(",", ":"))


def _metrics(metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return metrics by name, each with its unit, its bounds, and a list of points."""
    return {
        metric.instrument.name: {
            "unit": metric.instrument.unit,
            "bounds": metric.instrument.bounds,
            "points": [
                {"attributes": dict(zip(metric.instrument.attributes, labels, strict=True)), **_value(value)}
                for labels, value in metric.points
            ],
        }
        for metric in metrics
    }


def _value(value: float | Distribution) -> dict[str, Any]:
    if isinstance(value, Distribution):
        return {"counts": value.counts.tolist(), "sum": value.total}
    return {"value": value}


def _model(spec: ModelSpec) -> dict[str, Any]:
    policy = spec.batching
    return {
        "name": spec.name,
        "version": spec.version,
        "description": spec.description,
        "inputs": [_tensor(tensor) for tensor in spec.inputs],
        "outputs": [_tensor(tensor) for tensor in spec.outputs],
        "left_out": spec.left_out,
        "rules": [explain(rule) for rule in spec.rules],
        "untried": spec.untried,
        "providers": spec.providers,
        "requested_providers": spec.requested_providers,
        "instances": spec.instances,
        "threads": spec.threads,
        "stateful": bool(spec.state),
        "batching": {
            "enabled": policy.enabled,
            "reason": policy.reason,
            "stopped": policy.stopped,
            "max_rows": policy.max_rows,
            "max_delay_us": round(policy.max_delay * 1e6),
            "max_queue_rows": policy.max_queue_rows,
            "rows": asdict(policy.rows),
        },
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": NAMES[spec.data_type],
        "shape": spec.shape,
        "batch_axis": spec.batch_axis,
        "any_shape": spec.any_shape,
        "optional": spec.default is not None,
    }


def _slow(request: SlowRequest) -> dict[str, Any]:
    receipt = None if request.receipt is None else request.receipt._asdict()
    return request._asdict() | {"receipt": receipt}
