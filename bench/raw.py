"""Raw ONNX Runtime on one thread, alone in a process: bench.raw MODEL.onnx prints rows/s by batch size as JSON."""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.models import Floats, Model, session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

BATCHES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = 0.3  # for each batch size


@dataclass(frozen=True, kw_only=True)
class RawRun:
    """One pass over the batch sizes."""

    rows_per_s: dict[int, float]
    run1_us: float  # the median run of one row


def measure(model: Model) -> RawRun:
    """Measure `model` in a process of its own."""
    command = [sys.executable, "-m", "bench.raw", str(model.path)]
    times_s = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return RawRun(
        rows_per_s={int(batch): int(batch) / statistics.fmean(times) for batch, times in times_s.items()},
        run1_us=statistics.median(times_s["1"]) * 1e6,
    )


def _run_times(path: Path) -> dict[int, list[float]]:
    """The seconds of each run, by batch size."""
    loaded = session(path)
    row = loaded.get_inputs()[0].shape[1:]
    return {batch: _times(loaded, np.ones((batch, *row), np.float32)) for batch in BATCHES}


def _times(loaded: "InferenceSession", x: Floats) -> list[float]:
    for _ in range(3):  # allocates, fills caches
        loaded.run(None, {"x": x})
    times, until = [], time.perf_counter() + _SECONDS
    while (began := time.perf_counter()) < until:
        loaded.run(None, {"x": x})
        times.append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    print(json.dumps(_run_times(Path(sys.argv[1]))))
