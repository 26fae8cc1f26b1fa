"""What spot checks cost: their share of the run time, by the server's own counters, and CPU time a request."""

import json
import socket
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.request import urlopen

from bench import cells, load, ours
from bench.cells import Contender, Figures
from bench.figures import Keys, median_ratio
from bench.models import MODELS, expected

_MODELS = ("tiny", "wide")
_CALLERS = 64
_TURNS = 12  # of each kind, for each run
_SHARE = 0.25  # of the time of a measurement, for each turn
# A tenth of the share is used for models whose rows are proved to be independent, as these are: so this is the
# default of all others.
_ON = ("--spot-checks", "0.2")
_OFF = ("--spot-checks", "0")


@dataclass(frozen=True, kw_only=True)
class _Server:
    contender: Contender
    http_port: int

    def share(self, model: str) -> float:
        """Return the time of the checks of a model over that of its runs, both since the start."""
        with urlopen(f"http://127.0.0.1:{self.http_port}/api/status", timeout=60) as answer:
            metrics = json.load(answer)["metrics"]

        def seconds(metric: str, field: str) -> float:
            points = metrics[metric]["points"] if metric in metrics else []
            return sum(float(point[field]) for point in points if point["attributes"]["model"] == model)

        return seconds("onnxserve.spot_checks.time", "value") / seconds("onnxserve.batch.compute.duration", "sum")


def measure(runs: int, seconds: float) -> Keys:
    """Call a server with spot checks and one without in turn.

    Returns `spot_check.<model>.cost`, the share of the run time that the checks took, `spot_check.cost`, the largest of
    these, and `spot_check.<model>.cpu`, CPU time a request over that without spot checks, the median of the turns.
    """
    keys: Keys = {}
    with ExitStack() as stack:
        on, off = (_serve(name, options, stack) for name, options in (("checked", _ON), ("unchecked", _OFF)))
        for model in _MODELS:
            print(f"spot checks: {model}", file=sys.stderr, flush=True)
            pace = [load.warm_up(server.contender.targets[model], _CALLERS) for server in (on, off)]
            requests = max(_CALLERS, int(statistics.mean(pace) * seconds * _SHARE))
            turns: list[tuple[Figures, Figures]] = []
            for turn in range(runs * _TURNS):
                order = (on, off) if turn % 2 else (off, on)
                figures = [cells.measure_requests(server.contender, model, _CALLERS, requests) for server in order]
                turns.append((figures[0], figures[1]) if turn % 2 else (figures[1], figures[0]))
            with_checks, without = ([one.cpu_us for one in kind] for kind in zip(*turns, strict=True))
            keys[f"spot_check.{model}.cpu"] = median_ratio(with_checks, without)
            keys[f"spot_check.{model}.cost"] = on.share(model)
    keys["spot_check.cost"] = max(keys[f"spot_check.{model}.cost"] for model in _MODELS)
    return keys


def _serve(name: str, options: tuple[str, ...], stack: ExitStack) -> _Server:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = stack.enter_context(ours.serve(name, "--http-port", str(port), *options))
    models = [MODELS[model] for model in _MODELS]
    return _Server(contender=cells.contender(process, models, ours.target, ours.decode, expected), http_port=port)
