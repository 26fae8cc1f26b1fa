"""What it costs to be seen: nothing counted, metrics alone, and metrics with one request in a hundred traced."""

import statistics
import sys
from contextlib import ExitStack

from bench import cells, collector, load, ours
from bench.cells import Figures
from bench.figures import Keys, median_ratio
from bench.models import MODELS, expected

MODEL = MODELS["tiny"]
CALLERS = 64
# The differences are small. A machine's pace changes from one second to the next: many short turns. And of two
# processes that do not differ one may be slower for as long as it lives: several of each kind.
_SERVERS = 2  # of each kind
_TURNS = 60  # of each kind, for each run
_SHARE = 0.1  # of the time of a measurement, for each turn


def measure(runs: int, seconds: float) -> Keys:
    """Call servers of three kinds in turn, in changing order.

    Returns `telemetry.{off,metrics,traces}.{rps,cpu_us}`, medians, and of the turns' ratios over "off" the medians:
    `telemetry.{metrics,traces}_cost` of requests/s, `telemetry.{metrics,traces}_cpu` of CPU time a request. The metrics
    are pushed to a collector while traces are on.
    """
    print("telemetry", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        endpoint = f"http://{stack.enter_context(collector.serve()).address}"
        push = ("--otlp-endpoint", endpoint, "--otlp-interval", "1")
        kinds: dict[str, tuple[str, ...]] = {
            "off": ("--no-telemetry",),
            "metrics": (),
            "traces": (*push, "--trace-ratio", "0.01"),
        }
        servers = {
            kind: [
                cells.contender(
                    stack.enter_context(ours.serve(f"{kind}{i}", *options)), [MODEL], ours.target, ours.decode, expected
                )
                for i in range(_SERVERS)
            ]
            for kind, options in kinds.items()
        }
        pace = [load.warm_up(one.targets[MODEL.name], CALLERS) for same in servers.values() for one in same]
        requests = max(CALLERS, int(statistics.median(pace) * seconds * _SHARE))
        turns: dict[str, list[Figures]] = {kind: [] for kind in kinds}
        for turn in range(runs * _TURNS):
            for kind in _order(list(kinds), turn):
                server = servers[kind][turn // 2 % _SERVERS]
                turns[kind].append(cells.measure_requests(server, MODEL.name, CALLERS, requests))
    keys: Keys = {}
    for kind, figures in turns.items():
        for figure in ("rps", "cpu_us"):
            keys[f"telemetry.{kind}.{figure}"] = statistics.median(getattr(one, figure) for one in figures)
    for kind in ("metrics", "traces"):
        for key, figure in (("cost", "rps"), ("cpu", "cpu_us")):
            seen, unseen = ([getattr(one, figure) for one in turns[name]] for name in (kind, "off"))
            keys[f"telemetry.{kind}_{key}"] = median_ratio(seen, unseen)
    return keys


def _order(kinds: list[str], turn: int) -> list[str]:
    """Return them rotated, every second time backwards: each comes as often before each other as after it."""
    first = turn // 2 % len(kinds)
    rotated = kinds[first:] + kinds[:first]
    return rotated[::-1] if turn % 2 else rotated
