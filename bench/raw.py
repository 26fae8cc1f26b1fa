"""Raw ONNX Runtime on one thread, alone in a process: bench.raw MODEL.onnx prints rows/s by batch size as JSON."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.models import Model, session
from onnxserve.tensor import Array

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Feed = Mapping[str, Array]
BATCHES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = 0.3  # for each batch size


@dataclass(frozen=True, kw_only=True)
class RawRun:
    """One pass over the batch sizes."""

    rows_per_s: dict[int, float]
    run1_us: float  # the median run of one row


def measure(model: Model) -> RawRun:
    """Measure `model` in a process of its own."""
    return measure_by([sys.executable, "-m", "bench.raw", str(model.path)])


def measure_by(command: Sequence[str]) -> RawRun:
    """Measure in a process that prints what run_times() returns, as JSON."""
    times_s = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return RawRun(
        rows_per_s={int(batch): int(batch) / statistics.fmean(times) for batch, times in times_s.items()},
        run1_us=statistics.median(times_s["1"]) * 1e6,
    )


def run_times(loaded: "InferenceSession", feed: Callable[[int], Feed]) -> dict[int, list[float]]:
    """The seconds of each run, by batch size; `feed` gives the inputs of a batch."""
    return {batch: _times(loaded, feed(batch)) for batch in BATCHES}


def _times(loaded: "InferenceSession", feed: Feed) -> list[float]:
    for _ in range(3):  # allocates, fills caches
        loaded.run(None, feed)
    times, until = [], time.perf_counter() + _SECONDS
    while (began := time.perf_counter()) < until:
        loaded.run(None, feed)
        times.append(time.perf_counter() - began)
    return times


def _main(path: Path) -> None:
    loaded = session(path)
    row = loaded.get_inputs()[0].shape[1:]
    print(json.dumps(run_times(loaded, lambda batch: {"x": np.ones((batch, *row), np.float32)})))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
