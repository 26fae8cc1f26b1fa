"""The report of what was measured: tables for the terminal, the same as Markdown, and build/bench.json."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench import load
from bench.cells import Plan
from bench.figures import Keys

JSON = Path("build/bench.json")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table of text; the columns after the first `names` are numbers."""

    columns: Sequence[str]
    names: int
    rows: Sequence[Sequence[str]]


def machine() -> dict[str, str]:
    """What the figures were measured on and with, as `meta.*`."""
    cpus = len(os.sched_getaffinity(0))
    return {
        "meta.machine": f"{_cpu_model()}, {cpus} CPUs",
        "meta.python": platform.python_version(),
        "meta.grpcio": importlib.metadata.version("grpcio"),
        "meta.onnxruntime": importlib.metadata.version("onnxruntime"),
        "meta.load": load.source(),
    }


def cell_grid(plan: Plan, keys: Keys, contenders: Mapping[str, str]) -> Grid:
    """A row for each cell and contender; `contenders` gives the name in the keys and the one to print."""
    rows = [
        [model, str(callers), printed, *_cell_row(keys, f"{model}.c{callers}.{name}")]
        for model, callers in plan.cells
        for name, printed in contenders.items()
    ]
    columns = ["model", "callers", "server", "requests/s", "p50 ms", "p99 ms", "CPU-µs", "spread"]
    return Grid(columns=columns, names=3, rows=rows)


def _cell_row(keys: Keys, prefix: str) -> list[str]:
    return [
        f"{keys[f'{prefix}.rps']:,.0f}",
        f"{keys[f'{prefix}.p50_us'] / 1000:.2f}",
        f"{keys[f'{prefix}.p99_us'] / 1000:.2f}",
        f"{keys[f'{prefix}.cpu_us']:,.0f}",
        f"{keys[f'{prefix}.spread']:.0%}",
    ]


def raw_grid(models: Sequence[str], keys: Keys) -> Grid:
    """A row for each model: ONNX Runtime itself."""
    rows = [
        [
            model,
            f"{keys[f'{model}.onnxruntime.best_batch']:.0f}",
            f"{keys[f'{model}.onnxruntime.rows_per_s']:,.0f}",
            f"{keys[f'{model}.onnxruntime.run1_us']:,.1f}",
        ]
        for model in models
    ]
    return Grid(columns=["raw ONNX Runtime", "best batch", "rows/s", "run of one row, µs"], names=1, rows=rows)


def key_grid(keys: Keys, meanings: Mapping[str, str]) -> Grid:
    """A row for each key of `meanings` that was measured."""
    rows = [[key, meaning, f"{keys[key]:,.2f}"] for key, meaning in meanings.items() if key in keys]
    return Grid(columns=["key", "what it is", "value"], names=2, rows=rows)


def publish(keys: Mapping[str, float | str], grids: Sequence[Grid], markdown: Path) -> None:
    """Print the tables and write them to `markdown`; write the keys to JSON."""
    console = Console()
    for grid in grids:
        console.print(_rich(grid))
    facts = ", ".join(f"{key.removeprefix('meta.')} {value}" for key, value in keys.items() if key.startswith("meta."))
    console.print(facts, highlight=False)
    markdown.parent.mkdir(parents=True, exist_ok=True)
    markdown.write_text("\n".join([*map(_markdown, grids), facts, ""]))
    rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in keys.items()}
    JSON.write_text(json.dumps(rounded, indent=2) + "\n")


def _rich(grid: Grid) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(grid.columns):
        table.add_column(column, justify="left" if i < grid.names else "right", no_wrap=column != "what it is")
    for row in grid.rows:
        table.add_row(*row)
    return table


def _markdown(grid: Grid) -> str:
    rule = ["---" if i < grid.names else "---:" for i in range(len(grid.columns))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (grid.columns, rule, *grid.rows))


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
