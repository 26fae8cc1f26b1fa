"""What spot checks cost: their share of the run time, by the server's own counters, and CPU time a request."""

import statistics
import sys
from contextlib import ExitStack

from bench import cells, load, ours
from bench.cells import Contender, Figures
from bench.figures import Keys, median_ratio
from bench.models import MODELS, expected
from bench.ours import Counted

_MODELS = ("tiny", "wide")
_CALLERS = 64
_TURNS = 12  # of each kind, for each run
_SHARE = 0.25  # of the time of a measurement, for each turn
# A tenth of the share is used for models whose rows are proved to be independent, as these are: so this is the
# default of all others.
_ON = ("--spot-checks", "0.2")
_OFF = ("--spot-checks", "0")


def measure(runs: int, seconds: float) -> Keys:
    """Call a server with spot checks and one without in turn.

    Returns `spot_check.<model>.cost`, the share of the run time that the checks took, `spot_check.cost`, the largest of
    these, and `spot_check.<model>.cpu`, CPU time a request over that without spot checks, the median of the turns.
    """
    keys: Keys = {}
    with ExitStack() as stack:
        server = stack.enter_context(ours.serve_counted("checked", *_ON))
        on, off = map(_contender, (server, stack.enter_context(ours.serve_counted("unchecked", *_OFF))))
        for model in _MODELS:
            print(f"spot checks: {model}", file=sys.stderr, flush=True)
            pace = [load.warm_up(contender.targets[model], _CALLERS) for contender in (on, off)]
            requests = max(_CALLERS, int(statistics.mean(pace) * seconds * _SHARE))
            turns: list[tuple[Figures, Figures]] = []
            for turn in range(runs * _TURNS):
                order = (on, off) if turn % 2 else (off, on)
                figures = [cells.measure_requests(contender, model, _CALLERS, requests) for contender in order]
                turns.append((figures[0], figures[1]) if turn % 2 else (figures[1], figures[0]))
            with_checks, without = ([one.cpu_us for one in kind] for kind in zip(*turns, strict=True))
            keys[f"spot_check.{model}.cpu"] = median_ratio(with_checks, without)
            keys[f"spot_check.{model}.cost"] = _share(server, model)
    keys["spot_check.cost"] = max(keys[f"spot_check.{model}.cost"] for model in _MODELS)
    return keys


def _contender(server: Counted) -> Contender:
    models = [MODELS[model] for model in _MODELS]
    return cells.contender(server.process, models, ours.target, ours.decode, expected)


def _share(server: Counted, model: str) -> float:
    """Return the time of the checks of a model over that of its runs, both since the start."""
    checks = server.total("onnxserve.spot_checks.time", model=model)
    return checks / server.total("onnxserve.batch.compute.duration", "sum", model=model)
