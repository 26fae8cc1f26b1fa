"""From measurements to figures: flat keys, all numbers.

A figure is the median of the runs. A ratio is the median of the runs' own ratios, whose two parts were measured within
the same minute.
"""

import statistics
from collections.abc import Sequence

from bench.cells import Figures, Results
from bench.raw import BATCHES, RawRun

Keys = dict[str, float]

MEASURED = ("rps", "mean_us", "p50_us", "p99_us", "cpu_us")


def served(results: Results, *names: str) -> Keys:
    """`<model>.c<callers>.<contender>.<figure>` of the contenders named, and `.spread`: (max - min) / median of rps."""
    keys: Keys = {}
    for (model, callers, name), runs in results.served.items():
        if name in names:
            prefix = f"{model}.c{callers}.{name}"
            keys |= {
                f"{prefix}.{figure}": statistics.median(getattr(run, figure) for run in runs) for figure in MEASURED
            }
            rates = [run.rps for run in runs]
            keys[f"{prefix}.spread"] = (max(rates) - min(rates)) / statistics.median(rates)
    return keys


def raw(results: Results) -> Keys:
    """`<model>.onnxruntime.{best_batch,rows_per_s,run1_us}`."""
    keys: Keys = {}
    for model, runs in results.raw.items():
        best = best_batch(runs)
        keys[f"{model}.onnxruntime.best_batch"] = best
        keys[f"{model}.onnxruntime.rows_per_s"] = statistics.median(run.rows_per_s[best] for run in runs)
        keys[f"{model}.onnxruntime.run1_us"] = statistics.median(run.run1_us for run in runs)
    return keys


def best_batch(runs: Sequence[RawRun]) -> int:
    """The batch size with the most rows/s."""
    return max(BATCHES, key=lambda batch: statistics.median(run.rows_per_s[batch] for run in runs))


def bounds(results: Results) -> Keys:
    """The server beside what bounds it.

    `<cell>.vs_onnxruntime`, `<cell>.vs_floor`, `lane_vs_plain.<cell>`, and `<model>.c1.added_us`.
    """
    keys: Keys = {}
    for model, callers in results.plan.cells:
        cell = f"{model}.c{callers}"
        best = best_batch(results.raw[model])
        server = results.served[model, callers, "server"]
        raw_rates = [run.rows_per_s[best] for run in results.raw[model]]
        keys[f"{cell}.vs_onnxruntime"] = median_ratio([run.rps for run in server], raw_rates)
        keys[f"{cell}.vs_floor"] = ratio(results, model, callers, ours="server", theirs="floor")
        keys[f"lane_vs_plain.{cell}"] = ratio(results, model, callers, ours="server", theirs="plain")
        if callers == 1:
            keys[f"{cell}.added_us"] = _added_us(server, results.served[model, 1, "floor"], results.raw[model])
    return keys


def ratio(results: Results, model: str, callers: int, *, ours: str, theirs: str, figure: str = "rps") -> float:
    """`figure` of one contender over another's."""
    mine, other = (results.served[model, callers, name] for name in (ours, theirs))
    return median_ratio([getattr(run, figure) for run in mine], [getattr(run, figure) for run in other])


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the runs' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _added_us(server: Sequence[Figures], floor: Sequence[Figures], raw_runs: Sequence[RawRun]) -> float:
    """What a lone caller waits for beside the lane and the run."""
    runs = zip(server, floor, raw_runs, strict=True)
    return statistics.median(mine.mean_us - least.mean_us - run.run1_us for mine, least, run in runs)
