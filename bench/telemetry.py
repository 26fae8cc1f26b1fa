"""What it costs to be seen: nothing counted, metrics alone, and metrics with one request in a hundred traced."""

import statistics
import sys
from contextlib import ExitStack

from bench import cells, collector, figures, ours
from bench.cells import Plan
from bench.figures import Keys
from bench.models import MODELS, expected

MODEL = MODELS["tiny"]
CALLERS = 64
# The differences are small, and the machine's pace changes from one second to the next: many short turns.
_TURNS = 15  # of each server, for each run
_SHARE = 0.15  # of the time of a measurement


def measure(runs: int, seconds: float) -> Keys:
    """Call three servers in turn, in changing order; about so many runs of so long in all.

    Returns `telemetry.{off,metrics,traces}.{rps,cpu_us}`, medians, and of the turns' ratios over "off" the medians:
    `telemetry.{metrics,traces}_cost` of requests/s, `telemetry.{metrics,traces}_cpu` of CPU time a request. The metrics
    are pushed to a collector while traces are on.
    """
    print("telemetry", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        endpoint = f"http://{stack.enter_context(collector.serve()).address}"
        push = ("--otlp-endpoint", endpoint, "--otlp-interval", "1")
        servers = [
            stack.enter_context(ours.serve("off", "--no-telemetry")),
            stack.enter_context(ours.serve("metrics")),
            stack.enter_context(ours.serve("traces", *push, "--trace-ratio", "0.01")),
        ]
        contenders = [cells.contender(server, [MODEL], ours.target, ours.decode, expected) for server in servers]
        plan = Plan(models=[MODEL], callers=[CALLERS], runs=runs * _TURNS, seconds=seconds * _SHARE)
        results = cells.measure(plan, contenders, with_raw=False)
    keys: Keys = {}
    for server in servers:
        turns = results.served[MODEL.name, CALLERS, server.name]
        for figure in ("rps", "cpu_us"):
            keys[f"telemetry.{server.name}.{figure}"] = statistics.median(getattr(turn, figure) for turn in turns)
    for name in ("metrics", "traces"):
        for key, figure in (("cost", "rps"), ("cpu", "cpu_us")):
            keys[f"telemetry.{name}_{key}"] = figures.ratio(
                results, MODEL.name, CALLERS, ours=name, theirs="off", figure=figure
            )
    return keys
