"""Measures how a step changed a graph's size, speed and error, and judges whether it pays."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

from onnxserve.tensor import Array
from onnxserve_converters.evaluation import Candidate
from onnxserve_converters.runtime import Runtime

MIN_SPEEDUP = 1.2
"""Smaller ratios of times do not count: two sessions of one file differed by up to 1.02 on a busy machine."""

MIN_SAVING = 0.1
"""The smallest share of its bytes that a file must lose to count as smaller."""

_SECONDS = 0.3  # of measuring, for each number of rows
_WARM_UP_RUNS = 2
_MIN_RUNS = 3


def measure_step(
    name: str, before: Candidate, after: Candidate, feeds: Mapping[int, Mapping[str, Array]]
) -> dict[str, Any]:
    """Return the report's entry of one step.

    Args:
        name: of the step.
        before: the graph that the step was given.
        after: the graph that it made.
        feeds: arrays to time with, by number of rows.

    Returns:
        step: its name.
        bytes: {"before", "after"}.
        microseconds: {"before", "after"} of a run on one thread, by number of rows.
        error: {"absolute", "relative"}, the largest against the framework.
        accuracy: {"before", "after"}, shares of right classes; None without labelled samples.
        batchable: {"before", "after"}, whether the server batches requests.
        pays: whether the step is worth it.
        why: the reason, in words.
    """
    size = {"before": before.size, "after": after.size}
    times = {str(rows): _times(before.runtime, after.runtime, arrays) for rows, arrays in feeds.items()}
    shares = {"before": before.accuracy, "after": after.accuracy}
    was, now = before.runtime.verdict, after.runtime.verdict
    pays, why = judge(size, times, now.reason if was.batchable and not now.batchable else "")
    return {
        "step": name,
        "bytes": size,
        "microseconds": times,
        "error": {
            "absolute": max(row.error for row in after.parity),
            "relative": max(row.relative for row in after.parity),
        },
        "accuracy": None if None in shares.values() else shares,
        "batchable": {"before": was.batchable, "after": now.batchable},
        "pays": pays,
        "why": why,
    }


def judge(size: Mapping[str, int], times: Mapping[str, Mapping[str, float]], alone: str) -> tuple[bool, str]:
    """Return whether a step pays, and why: it must be smaller or faster at some number of rows, and slower at none.

    Args:
        size: bytes "before" and "after".
        times: of a run "before" and "after", by number of rows.
        alone: why requests can no longer be batched; "" where they can, or never could.
    """
    saved = 1 - size["after"] / size["before"]
    speedups = {rows: run["before"] / run["after"] for rows, run in times.items()}
    reasons = [f"{abs(saved):.0%} {'smaller' if saved > 0 else 'larger'}" if round(saved, 2) else "no smaller"]
    reasons += [
        f"{speedup:.1f} times faster at batch {rows}"
        if speedup > 1
        else f"{1 / speedup:.1f} times slower at batch {rows}"
        for rows, speedup in speedups.items()
        if not 1 / MIN_SPEEDUP <= speedup <= MIN_SPEEDUP
    ] or ["no faster"]
    if alone:
        reasons.append(f"and requests can no longer be batched: {alone}")
    gains = saved > MIN_SAVING or max(speedups.values()) > MIN_SPEEDUP
    loses = bool(alone) or min(speedups.values()) < 1 / MIN_SPEEDUP
    return gains and not loses, ", ".join(reasons)


def _times(before: Runtime, after: Runtime, feeds: Mapping[str, Array]) -> dict[str, float]:
    """Return the median time of a run in µs. The two take turns, so that other load affects both alike."""
    for _ in range(_WARM_UP_RUNS):
        before.run(feeds)
        after.run(feeds)
    taken: dict[str, list[float]] = {"before": [], "after": []}
    end = time.perf_counter() + _SECONDS
    while len(taken["after"]) < _MIN_RUNS or time.perf_counter() < end:
        for which, runtime in (("before", before), ("after", after)):
            began = time.perf_counter()
            runtime.run(feeds)
            taken[which].append(time.perf_counter() - began)
    return {which: round(statistics.median(times) * 1e6, 1) for which, times in taken.items()}
