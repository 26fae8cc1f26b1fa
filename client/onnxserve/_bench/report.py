"""A measurement as JSON: every figure of the table, and the circumstances of the measurement."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from onnxserve._bench import cpu
from onnxserve._bench.advice import Best, cautions
from onnxserve._bench.generator import Generator
from onnxserve._bench.load import Callers
from onnxserve._bench.sample import Sample
from onnxserve._bench.workload import Workload, shapes_of
from onnxserve._models import ModelInfo


@dataclass(frozen=True, kw_only=True)
class Report:
    """The settings and results of a sweep over loads.

    Attributes:
        info: the model.
        workload: the requests.
        generator: the settings.
        limit_ms: the limit of p99; None: none.
        samples: the measurements, one for each load.
        best: the recommended load; None: there is none.
        interrupted: whether the sweep was interrupted.
    """

    info: ModelInfo
    workload: Workload
    generator: Generator
    limit_ms: float | None
    samples: Sequence[Sample]
    best: Best | None
    interrupted: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for json. Figures that were not measured are None."""
        generator, workload, best = self.generator, self.workload, self.best
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("onnxserve", "grpcio", "protobuf", "numpy")}
            | {"python": platform.python_version()},
            "machine": {"platform": platform.platform(), "cpus": cpu.count()},
            "target": generator.target,
            "model": self.info.to_dict(),
            "request": {
                "inputs": shapes_of(workload.requests[0]),
                "made_up": list(workload.made_up),
                "rows": workload.rows,
                "bytes": len(generator.messages[0]),
                "different": len(workload.requests),
            },
            "settings": {
                "stream": generator.stream,
                "warm_up": generator.warm_up,
                "seconds": generator.seconds,
                "timeout": generator.timeout,
                "limit_ms": self.limit_ms,
            },
            "loads": [_sample(each) for each in self.samples],
            "best": best and _best(best),
            "cautions": list(cautions(self.samples)),
            "interrupted": self.interrupted,
        }


def _best(best: Best) -> dict[str, Any]:
    sample = best.sample
    return {**_load(sample), "rows_in_server": sample.rows_in_server, "why": best.why, "batches": list(best.batches)}


def _load(sample: Sample) -> dict[str, Any]:
    load = sample.load
    if isinstance(load, Callers):
        return {"concurrency": load.number, "rate": None, "arrivals": None}
    return {"concurrency": None, "rate": load.per_second, "arrivals": load.arrivals}


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        **_load(sample),
        "complete": sample.complete,
        "requests": sample.requests,
        "succeeded": sample.succeeded,
        "errors": dict(sample.errors),
        "messages": dict(sample.messages),
        "dropped": sample.dropped,
        "late": sample.late,
        "worst_delay_ms": sample.worst_delay_ms,
        "requests_per_second": sample.requests_per_second,
        "rows_per_second": sample.rows_per_second,
        "latency_ms": asdict(sample.latency) if sample.latency else None,
        "runs": asdict(sample.runs) if sample.runs else None,
        "rows_in_server": sample.rows_in_server,
        "caller_cpu": sample.cpu.own,
        "machine_cpu": sample.cpu.machine,
    }
