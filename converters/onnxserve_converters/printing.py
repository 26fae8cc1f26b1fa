"""The output of the converters' commands: stages as they run, and tables of results."""

import json as jsonlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxserve_converters.conversion import Conversion
from onnxserve_converters.rows import sentence

_UNITS = ("B", "KiB", "MiB", "GiB")


class Stages:
    """Prints to stderr how long each stage took and, at a terminal, which one is running.

    Args:
        quiet: print at a terminal only.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._prints = self._console.is_terminal or not quiet
        self._status = self._console.status("")
        self._stage, self._began = "", 0.0

    def __call__(self, stage: str) -> None:
        """Start a stage."""
        self._end()
        self._stage, self._began = stage, time.monotonic()
        self._status.update(stage)

    def __enter__(self) -> "Stages":
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self._end("" if kind is None else "  failed")
        self._status.stop()

    def _end(self, how: str = "") -> None:
        if self._stage and self._prints:
            self._console.print(f"{self._stage:<10}{time.monotonic() - self._began:6.1f} s{how}")


def printable(text: str) -> str:
    """Return a text without control characters, which would steer a terminal: some text comes from files."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def conversion(done: Conversion) -> None:
    """Print the comparison, the effect of each step, and the published version."""
    console = _console()
    for part in _report(done.report):
        console.print(part)
    console.print(f"published {done.path} ({size(done.report['model']['bytes'])})", style="green")
    console.print(f"serve it:  onnxserve serve --models {done.path.parent.parent}")
    console.print(printable(done.report["proof"]["basis"]["sentence"]))


def inspection(found: Mapping[str, Any]) -> None:
    """Print the result of inspection.inspect()."""
    console = _console()
    external = "".join(f", weights in {each['file']}" for each in found["external_data"])
    console.print(f"{found['file']}  {size(found['bytes'])}{external}", style="bold")
    facts = _table("", "", show_header=False)
    for kind, values, remark in (
        ("in", found["inputs"], ""),
        ("in", found["optional_inputs"], ", optional"),
        ("out", found["outputs"], ""),
    ):
        for name, value in values.items():
            _row(facts, (kind, f"{name}  {value['dtype']}{_shape(value['shape'])}{remark}"))
    parameters = found["parameters"]
    by_dtype = ", ".join(f"{dtype} {part['count']:,}" for dtype, part in parameters["by_dtype"].items())
    rows = {
        "free axes": ", ".join(found["free_axes"]) or "none",
        "opset": ", ".join(f"{domain} {version}" for domain, version in found["opset"].items()),
        "parameters": f"{parameters['count']:,} in {size(parameters['bytes'])}: {by_dtype}",
        "operators": ", ".join(f"{operator} {count}" for operator, count in found["operators"].items()),
        "rows": sentence(found["rows"]),
        "producer": found["producer"],
        "doc": found["doc"],
        **{f"metadata {key}": jsonlib.dumps(value, ensure_ascii=False) for key, value in found["metadata"].items()},
        "model.yaml": found["config"],
    }
    for name, text in rows.items():
        if text:
            _row(facts, (name, text))
    console.print(facts)
    if found["report"] is None:
        return
    try:
        parts = list(_report(found["report"]))
        parts += [printable(basis["sentence"])] if (basis := found["report"]["proof"].get("basis")) else []
    except (LookupError, TypeError, ValueError):  # a report.json of another program
        parts = [printable(jsonlib.dumps(found["report"]))]
    for part in parts:
        console.print(part)


def failure(report: Mapping[str, Any]) -> None:
    """Print the report of a failed conversion."""
    console = _console()
    if report.get("parity"):
        console.print(_parity(report["parity"]))
    for fault in report.get("faults", ()):
        console.print(printable(fault), style="red")


def size(count: float) -> str:
    """Return a number of bytes in the largest unit that gives at least 1."""
    power = min(int(math.log(count, 1024)), len(_UNITS) - 1) if count else 0
    return f"{count / 1024**power:.{min(power, 1)}f} {_UNITS[power]}"


def _report(report: Mapping[str, Any]) -> Iterator[Table | str]:
    parity = report["proof"]
    yield _parity(parity["parity"])
    yield f"compared with {parity['reference']}"
    yield "the server batches requests" if parity["batchable"] else f"the server does not batch: {parity['reason']}"
    if "rows" in parity:
        yield f"rows of one run: {printable(sentence(parity['rows']))}"
    if report["shrinking"]:
        yield _steps(report["shrinking"])
    if report["accuracy"]:
        yield f"accuracy {report['accuracy']['share']:.2%} on {report['accuracy']['rows']} rows"
    for note in report["notes"]:
        yield f"note: {printable(note)}"


def _console() -> Console:
    return Console(soft_wrap=True, markup=False, highlight=False)


def _table(*columns: str, show_header: bool = True) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_header=show_header)
    for column in columns:
        table.add_column(column)
    return table


def _row(table: Table, cells: Iterable[str], style: str | None = None) -> None:
    table.add_row(*(Text("\n".join(map(printable, cell.splitlines()))) for cell in cells), style=style)


def _shape(shape: Sequence[int | str] | None) -> str:
    return "" if shape is None else f"[{', '.join(map(str, shape))}]"


def _parity(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("output", "sizes", "error", "allowed", "")
    for row in rows:
        sizes = ", ".join(f"{axis}={number}" for axis, number in row["sizes"].items()) or "fixed"
        error = "infinite" if row["error"] is None else f"{row['error']:.2g}"
        verdict = "same" if row["passes"] else "DIFFERS"
        _row(
            table,
            (row["output"], sizes, error, f"{row['allowed']:.2g}", verdict),
            None if row["passes"] else "bold red",
        )
    return table


def _steps(steps: Sequence[Mapping[str, Any]]) -> Table:
    batches = list(steps[0]["microseconds"])
    table = _table("step", "KiB", *(f"µs at batch {rows}" for rows in batches), "error", "accuracy", "pays")
    for step in steps:
        times = [_change(step["microseconds"][rows], "{:.0f}") for rows in batches]
        kib = _change({when: count / 1024 for when, count in step["bytes"].items()}, "{:.0f}")
        right = _change(step["accuracy"], "{:.1%}") if step["accuracy"] else ""
        pays = "yes" if step["pays"] else "no"
        _row(table, (step["step"], kib, *times, f"{step['error']['relative']:.2%}", right, pays))
    return table


def _change(values: Mapping[str, float], form: str) -> str:
    before, after = form.format(values["before"]), form.format(values["after"])
    return before if before == after else f"{before} → {after}"
