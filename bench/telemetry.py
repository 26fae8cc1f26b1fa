"""What it costs to be seen: nothing counted, metrics alone, and metrics with one request in a hundred traced."""

import statistics
import sys
from contextlib import ExitStack

from bench import collector, load, ours
from bench.figures import Keys
from bench.models import MODELS

MODEL = MODELS["tiny"]
CALLERS = 64
_LEAST_RUNS = 5  # the differences are small


def measure(runs: int, seconds: float) -> Keys:
    """Call three servers in turn, `runs` times over (five at least), each for about so long.

    Returns `telemetry.{off,metrics,traces}.rps`, medians, and of the runs' ratios over "off" the medians:
    `telemetry.metrics_cost` and `telemetry.traces_cost`. The metrics are pushed to a collector while traces are on.
    """
    print("telemetry", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        endpoint = f"http://{stack.enter_context(collector.serve()).address}"
        push = ("--otlp-endpoint", endpoint, "--otlp-interval", "1")
        servers = {
            "off": stack.enter_context(ours.serve("untold", "--no-telemetry")),
            "metrics": stack.enter_context(ours.serve("counted")),
            "traces": stack.enter_context(ours.serve("traced", *push, "--trace-ratio", "0.01")),
        }
        targets = {name: ours.target(server.address, MODEL) for name, server in servers.items()}
        rates: dict[str, list[float]] = {name: [] for name in targets}
        for _ in range(max(runs, _LEAST_RUNS)):
            for name, target in targets.items():
                requests = int(load.warm_up(target, CALLERS) * seconds)
                rates[name].append(load.send(target, CALLERS, requests).rps)
    return {f"telemetry.{name}.rps": statistics.median(of_name) for name, of_name in rates.items()} | {
        f"telemetry.{name}_cost": statistics.median(
            rate / off for rate, off in zip(rates[name], rates["off"], strict=True)
        )
        for name in ("metrics", "traces")
    }
