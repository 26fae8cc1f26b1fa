"""The output of `onnxserve bench`: progress on stderr, then the results."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxserve._bench import advice
from onnxserve._bench.load import Load
from onnxserve._bench.report import Report
from onnxserve._bench.sample import Sample
from onnxserve._bench.table import HEAD, cells
from onnxserve._bench.workload import shapes_of

_WIDE = 200  # characters of the table, even in a narrower terminal: figures must not be cut


class Progress:
    """Shows the progress of each load on stderr: a bar at a terminal, else a line when the load is over."""

    def __init__(self, loads: Sequence[Load]) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._width = max(len(str(load)) for load in loads)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[status]}"),
            console=self._console,
            transient=True,
            refresh_per_second=4,  # drawing takes CPU time from the load
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, status="")

    def begin(self, load: Load) -> None:
        """Note that a load begins."""
        self._bar.reset(self._task, description=f"{load!s:<{self._width}}", status="warming up")

    def __call__(self, fraction: float, answered: int, failed: int) -> None:
        """Note how much of the time is over."""
        status = f"{answered:,} answered" + (f", {failed:,} failed" if failed else "")
        self._bar.update(self._task, completed=fraction, status=status)

    def end(self, sample: Sample) -> None:
        """Note that the load is over."""
        p99 = f", p99 {sample.latency.p99:.2f} ms" if sample.latency else ""
        failed = f", {sample.failed + sample.dropped:,} failed" if sample.failed + sample.dropped else ""
        rate = f"{sample.requests_per_second:,.1f} requests/s"
        self._console.print(f"{sample.load!s:<{self._width}}  {rate}{p99}{failed}")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()


def print_report(report: Report) -> None:
    """Print the table, the best load, and the cautions about the figures."""
    console = Console(highlight=False)
    info, requests = report.info, report.workload
    sent = ", ".join(f"{name} {shape}" for name, shape in shapes_of(requests.requests[0]).items())
    made_up = f"; made up: {', '.join(requests.made_up)}" if requests.made_up else ""
    console.print(
        Text(f"{info.name} version {info.version}, each request {sent}{made_up}", style="bold"), soft_wrap=True
    )
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for sample in report.samples:
        table.add_row(*cells(sample))
    Console(highlight=False, width=_WIDE).print(table)
    if report.best:
        for sentence in (report.best.headline, *report.best.batches):
            console.print(Text(sentence), soft_wrap=True)
    elif report.limit_ms is not None and report.samples:
        console.print(Text(f"No load kept its p99 within {report.limit_ms:g} ms without failures."), soft_wrap=True)
    for sentence in advice.cautions(report.samples):
        console.print(Text(f"note: {sentence}", style="yellow"), soft_wrap=True)
