"""Measure onnxserve on this machine: python -m bench. Prints tables; writes build/bench.json and build/bench.md."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from bench import (
    analysis,
    figures,
    floor,
    load,
    models,
    ours,
    overload,
    report,
    sdk,
    sequences,
    spot_checks,
    stream,
    telemetry,
)
from bench.cells import Contender, Plan, contender, measure
from bench.soak import soak

_SECONDS = 2.2  # one measurement, at --requests-scale 1
_CONTENDERS = {"server": "onnxserve", "plain": "plain edge", "floor": "lane alone"}
_MEANINGS = {
    "wide.c64.vs_onnxruntime": "rows/s over raw ONNX Runtime's best, one thread each",
    "tiny.c64.vs_floor": "requests/s over the lane alone",
    "tiny.c1.added_us": "µs that a lone caller waits beside the lane and the run",
    "lane_vs_plain.tiny.c64": "requests/s over the plain edge's",
    "sdk.coalesced_vs_single_rps": "64 threads of one Client: calls that travel together over calls that go alone",
    "sdk.tasks.coalesced_vs_single_rps": "the same for 64 tasks of one AsyncClient",
    "stream.tiny.vs_unary_rps": "requests/s by Stream over those by Predict, 64 in flight",
    "stream.tiny.cpu_vs_unary": "the server's CPU time a request by Stream over that by Predict, 64 in flight",
    "sequences.vad.c64.vs_onnxruntime": "steps/s of 64 sequences over raw ONNX Runtime's best rows/s, one thread each",
    "telemetry.metrics_cost": "requests/s with metrics over those without telemetry, 64 callers",
    "telemetry.metrics_cpu": "the same of CPU time a request",
    "telemetry.traces_cost": "requests/s with 1 % of the requests traced, too, over those without telemetry",
    "telemetry.traces_cpu": "the same of CPU time a request",
    "overload.single.goodput_10x": "answers/s at 10 times the capacity over the capacity, one request a run",
    "overload.batched.goodput_10x": "the same with up to four requests a run",
    "overload.goodput_10x": "the lower of the two",
    "overload.single.refusal_p99_ms": "ms after which 99 % of the others had their error",
    "overload.batched.refusal_p99_ms": "the same with up to four requests a run",
    "analysis.seconds": "CPU seconds to read the graph of the gallery's largest model and to judge its rows",
    "analysis.nodes": "nodes of that model",
    "spot_check.cost": "time of spot checks over that of the runs, of the model for which it is larger",
    "spot_check.tiny.cpu": "CPU time a request with spot checks over that without, 64 callers",
    "spot_check.wide.cpu": "the same of the wide model",
    "soak.requests": "requests of the soak",
    "soak.rss_growth_mb": "MB of resident memory more after it",
    "soak.threads_growth": "threads more after it",
    "soak.fds_growth": "descriptors more after it",
}


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose what is measured, as every benchmark has them."""
    names = ",".join(models.MODELS)
    parser.add_argument("--models", type=_models, default=names, help="which, by comma (default: %(default)s)")
    parser.add_argument(
        "--callers", type=_counts, default="1,16,64", help="how many at a time, by comma (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=3, help="medians are over so many (default: %(default)s)")
    parser.add_argument(
        "--requests-scale", type=float, default=1.0, help="more or fewer requests a cell, 0.1 to try out"
    )


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that those options ask for."""
    return Plan(
        models=options.models,
        callers=options.callers,
        runs=options.runs,
        seconds=_SECONDS * options.requests_scale,
    )


def _models(names: str) -> list[models.Model]:
    try:
        return [models.MODELS[name] for name in names.split(",")]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"no model {error}; there are {', '.join(models.MODELS)}") from None


def _counts(numbers: str) -> list[int]:
    return [int(number) for number in numbers.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    add_plan_options(parser)
    parser.add_argument("--soak", type=int, default=1_000_000, metavar="N", help="requests of the soak (%(default)s)")
    parser.add_argument("--no-soak", dest="soak", action="store_const", const=0, help="leave the soak out")
    return parser.parse_args()


def _contenders(plan: Plan, stack: ExitStack) -> list[Contender]:
    server = stack.enter_context(ours.serve("server"))
    plain = stack.enter_context(ours.serve("plain", "--edge", "plain"))
    least = stack.enter_context(floor.serve())
    return [
        contender(server, plan.models, ours.target, ours.decode, models.expected),
        contender(plain, plan.models, ours.target, ours.decode, models.expected),
        contender(least, plan.models, ours.target, ours.decode, floor.zeros),
    ]


def _streamed(plan: Plan) -> figures.Keys:
    """The keys of streams, as far as what they need is there."""
    streamed = stream.measure(plan.runs, plan.seconds)
    if not sequences.is_possible():
        print(sequences.HOW_TO_GET_THE_NETWORK, file=sys.stderr)
        return streamed
    return streamed | sequences.measure(plan.runs, plan.seconds)


def main() -> None:
    """Measure, print, write."""
    options = _options()
    plan = plan_of(options)
    if load.source() != "h2load":
        print(f"{load.HOW_TO_GET_H2LOAD}\nGoing on with threads of Python, which cost far more.", file=sys.stderr)
    models.write()
    with ExitStack() as stack:
        contenders = _contenders(plan, stack)
        results = measure(plan, contenders, with_raw=True)
        calls_tiny = any(model.name == sdk.MODEL.name for model in plan.models)
        called = sdk.measure(contenders[0].process.address, plan.runs, plan.seconds) if calls_tiny else {}
        soaked = soak(contenders[0].process, options.soak) if options.soak else {}
    streamed = _streamed(plan) if calls_tiny else {}
    watched = telemetry.measure(plan.runs, plan.seconds) if calls_tiny else {}
    overloaded = overload.measure(plan.runs, plan.seconds) if calls_tiny else {}
    checked = spot_checks.measure(plan.runs, plan.seconds) if calls_tiny else {}
    analysed = analysis.measure(plan.runs)
    if not analysed:
        print(analysis.HOW_TO_GET_THE_GALLERY, file=sys.stderr)
    of_cells = figures.bounds(results) | figures.raw(results) | figures.served(results, *_CONTENDERS)
    keys = of_cells | called | streamed | watched | overloaded | checked | analysed | soaked
    grids = [
        report.cell_grid(plan, keys, _CONTENDERS),
        report.raw_grid([model.name for model in plan.models], keys),
        report.key_grid(keys, _MEANINGS),
    ]
    report.publish({**report.machine(), **keys}, grids, Path("build/bench.md"))


if __name__ == "__main__":
    main()
