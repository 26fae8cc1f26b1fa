"""Taking the measurements: every contender in turn, cell by cell, run by run, so that noise hits them alike."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench import load, raw
from bench.load import Target
from bench.models import Floats, Model
from bench.process import ServerProcess
from bench.raw import RawRun


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A running server and how to call its models."""

    name: str
    process: ServerProcess
    targets: Mapping[str, Target]  # by model name


def contender(
    process: ServerProcess,
    models: Sequence[Model],
    target: Callable[[str, Model], Target],
    decode: Callable[[bytes], Floats],
    expected: Callable[[Model], Floats],
) -> Contender:
    """Prepare to call `models` on a running server, once it has given the right answer to each; see load.verify."""
    targets = {model.name: target(process.address, model) for model in models}
    for model in models:
        load.verify(targets[model.name], decode, expected(model))
    return Contender(name=process.name, process=process, targets=targets)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One measurement: what the callers saw, and the server's CPU time per request."""

    rps: float
    mean_us: float
    p50_us: float
    p99_us: float
    cpu_us: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure: the cells are all pairs of a model and a number of callers."""

    models: Sequence[Model]
    callers: Sequence[int]
    runs: int
    seconds: float  # about how long one measurement lasts

    @property
    def cells(self) -> list[tuple[str, int]]:
        """Model name and callers of each cell."""
        return [(model.name, callers) for model in self.models for callers in self.callers]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything measured; each list has one element a run."""

    plan: Plan
    served: dict[tuple[str, int, str], list[Figures]] = field(default_factory=dict)  # by model, callers, contender
    raw: dict[str, list[RawRun]] = field(default_factory=dict)  # by model


def measure(plan: Plan, contenders: Sequence[Contender], *, with_raw: bool) -> Results:
    """Measure all cells of the plan, `plan.runs` times over."""
    results = Results(plan=plan)
    for run in range(plan.runs):
        turn = run % len(contenders)  # nobody is always the first
        order = [*contenders[turn:], *contenders[:turn]]
        for model in plan.models:
            _tell(f"run {run + 1} of {plan.runs}: {model.name}")
            if with_raw:
                results.raw.setdefault(model.name, []).append(raw.measure(model))
            for callers in plan.callers:
                for contender in order:
                    figures = measure_one(contender, model.name, callers, plan.seconds)
                    results.served.setdefault((model.name, callers, contender.name), []).append(figures)
    return results


def measure_one(contender: Contender, model: str, callers: int, seconds: float) -> Figures:
    """Measure one model of one contender for about so long."""
    rps = load.warm_up(contender.targets[model], callers)
    return measure_requests(contender, model, callers, max(callers, int(rps * seconds)))


def measure_requests(contender: Contender, model: str, callers: int, requests: int) -> Figures:
    """Measure so many requests to a contender that is warm."""
    before = contender.process.cpu_seconds()
    sample = load.send(contender.targets[model], callers, requests)
    cpu_us = (contender.process.cpu_seconds() - before) * 1e6 / requests
    return Figures(rps=sample.rps, mean_us=sample.mean_us, p50_us=sample.p50_us, p99_us=sample.p99_us, cpu_us=cpu_us)


def _tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)
