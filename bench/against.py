"""This tree beside another checkout of it, in turn: python -m bench.against CHECKOUT. What a change costs.

Both run in this environment, with this tree's benchmark and repositories. Printed are, for a tiny model's Predict at 64
callers, its Stream, and steps of sequences, the medians of the turns' ratios, this tree over the other: of requests/s
and of the server's CPU time a request. CPU time is the steadier one: a machine's pace changes more than its work.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import cells, load, models, ours, sequences, stream, stream_load
from bench.figures import median_ratio
from bench.process import ServerProcess

_SERVERS = 2  # of each tree: of two that do not differ one may be slower for as long as it lives
_SECONDS = 0.4  # of one turn
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One measurement of one server."""

    rps: float
    cpu_us: float


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Something to measure.

    Attributes:
        name: what it is called in the table.
        serve: starts a server for it; takes a name and the source tree.
        prepare: returns what measures one turn of a server that is warm.
    """

    name: str
    serve: Callable[[str, Path], ServerProcess]
    prepare: Callable[[ServerProcess], Callable[[], Turn]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.against", description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder of the other tree, such as a git worktree")
    parser.add_argument("--turns", type=int, default=60, help="of each tree (default: %(default)s)")
    options = parser.parse_args()
    models.write()
    works = [_predict(), _stream(), *([_sequences()] if sequences.is_possible() else [])]
    print(f"{'':22}{'requests/s':>12}{'CPU time':>12}{'spread':>10}   (this tree / {options.checkout})")
    for work in works:
        mine, theirs = _in_turn(work, options.checkout, options.turns)
        rates = median_ratio([turn.rps for turn in mine], [turn.rps for turn in theirs])
        ratios = [one.cpu_us / other.cpu_us for one, other in zip(mine, theirs, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        cpu = statistics.median(turn.cpu_us for turn in mine)
        print(f"{work.name:22}{rates:12.3f}{statistics.median(ratios):12.3f}{high - low:10.3f}   {cpu:.1f} µs")


def _in_turn(work: Workload, checkout: Path, turns: int) -> tuple[list[Turn], list[Turn]]:
    with ExitStack() as stack:

        def servers(label: str, tree: Path) -> list[Callable[[], Turn]]:
            processes = [stack.enter_context(work.serve(f"{label}{i}", tree)) for i in range(_SERVERS)]
            return [work.prepare(process) for process in processes]

        mine, theirs = servers("mine", _ROOT), servers("theirs", checkout)
        measured: tuple[list[Turn], list[Turn]] = ([], [])
        for turn in range(turns):
            pair = [(measured[0], mine), (measured[1], theirs)]
            for taken, same in pair if turn % 2 else reversed(pair):
                taken.append(same[turn // 2 % _SERVERS]())
    return measured


def _environment(tree: Path) -> dict[str, str]:
    """Return what makes a server run the code of a tree: it comes before the packages that are installed."""
    return {"PYTHONPATH": os.pathsep.join(str(tree.resolve() / part) for part in ("client", "server", "converters"))}


def _predict() -> Workload:
    model = models.MODELS["tiny"]

    def prepare(process: ServerProcess) -> Callable[[], Turn]:
        server = cells.contender(process, [model], ours.target, ours.decode, models.expected)
        count = max(64, int(load.warm_up(server.targets[model.name], 64) * _SECONDS))

        def measure() -> Turn:
            figures = cells.measure_requests(server, model.name, 64, count)
            return Turn(rps=figures.rps, cpu_us=figures.cpu_us)

        return measure

    return Workload(
        name="Predict, tiny, c64",
        serve=lambda name, tree: ours.serve(name, environment=_environment(tree)),
        prepare=prepare,
    )


def _stream() -> Workload:
    options = ("--stream-requests", str(stream.IN_FLIGHT // stream_load.STREAMS))
    return Workload(
        name="Stream, tiny",
        serve=lambda name, tree: ours.serve(name, *options, environment=_environment(tree)),
        prepare=lambda process: _streamed(process, stream.TRAFFIC),
    )


def _sequences() -> Workload:
    repository = sequences.write()
    return Workload(
        name="steps, silero-vad",
        serve=lambda name, tree: ours.serve(name, repository=repository, environment=_environment(tree)),
        prepare=lambda process: _streamed(process, sequences.TRAFFIC),
    )


def _streamed(process: ServerProcess, traffic: stream_load.Traffic) -> Callable[[], Turn]:
    count = stream_load.prepare(process, traffic, _SECONDS)

    def measure() -> Turn:
        rate = stream_load.send(process, traffic, count)
        return Turn(rps=rate.rps, cpu_us=rate.cpu_us)

    return measure


if __name__ == "__main__":
    main()
