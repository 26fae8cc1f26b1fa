"""Train, convert, serve and call the gallery's models, and print how close each comes to its framework.

    make gallery                                    every model
    make gallery ARGS="lenet-torch lenet-keras"     some

Each model is trained and converted in processes of its own, as a person would do it from a shell. Then one server
serves them all, and each is called at batch sizes and lengths that it was not exported with. Exits with 1 when
any model fails.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from catalogue import HERE, ROWS, Row
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from training import Arrays, read_answers

from onnxserve import Client, OnnxserveError
from onnxserve_converters.comparison import compare
from onnxserve_converters.request import TOLERANCES

Report = dict[str, Any]
"""What a conversion writes to report.json."""

CALL_S = 30.0
TABLE_COLUMNS = 110


class GalleryError(Exception):
    """A model failed; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """The result of calling a model: the largest error, as a share, and the rows of the largest batch."""

    error: float
    batch_rows: int


def main() -> None:
    """Run the gallery, print its table, and exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.name for row in ROWS]
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"one of {', '.join(names)} (default: all)")
    parser.add_argument(
        "--to", type=Path, default=Path("build/gallery"), help="directory to write to (default: %(default)s)"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in names]:
        parser.error(f"unknown model {unknown[0]}; the gallery has {', '.join(names)}")
    wanted = [row for row in ROWS if row.name in (options.names or names)]

    console = Console()
    console.width = max(console.width, TABLE_COLUMNS)  # where there is no terminal it would be 80
    skipped = {row.name: why for row in wanted if (why := missing(row))}
    rows = [row for row in wanted if row.name not in skipped]
    reports, faults = prepare(rows, options.to, console)
    served = ask_all([row for row in rows if row.name in reports], options.to, faults) if reports else {}
    console.print(table(rows, reports, served))
    for name, why in skipped.items():
        console.print(f"{name} skipped: {why}", markup=False, highlight=False, soft_wrap=True)
    for name, fault in faults.items():
        console.print(f"{name} failed: {fault}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(bool(faults))


def missing(row: Row) -> str | None:
    """Return why a model cannot be run here; None where it can."""
    if row.package is None or importlib.util.find_spec(row.package):
        return None
    return f"needs a package: pip install --no-deps {row.package.replace('_', '-')}"


def prepare(rows: Sequence[Row], folder: Path, console: Console) -> tuple[dict[str, Report], dict[str, str]]:
    """Train and convert as many at a time as there are CPUs; return the reports and the failures by name."""
    reports, faults = {}, {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for made in [threads.submit(make, group, folder) for group in by_script(rows)]:
            for name, result in made.result().items():
                if isinstance(result, GalleryError):
                    faults[name] = str(result)
                    console.print(f"{name}: failed", highlight=False)
                else:
                    reports[name] = result
                    console.print(f"{name}: converted in {result['seconds']:.0f} s", highlight=False)
    return reports, faults


def by_script(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the models in groups that one file trains."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.script].append(row)
    return [*groups.values()]


def make(group: Sequence[Row], folder: Path) -> dict[str, Report | GalleryError]:
    """Train the models of one file and convert them; return the report or the error of each."""
    try:
        train(group[0].script, folder)
    except GalleryError as error:
        return {row.name: error for row in group}
    made: dict[str, Report | GalleryError] = {}
    for row in group:
        try:
            made[row.name] = convert(row, folder)
        except GalleryError as error:
            made[row.name] = error
    return made


def train(script: str, folder: Path) -> None:
    """Run a training file of this folder.

    Raises:
        GalleryError: it failed, or the model's score is too low.
    """
    _run([sys.executable, str(HERE / script), "--to", str(folder)])


def convert(row: Row, folder: Path) -> Report:
    """Convert a trained model with the command, into the repository `folder`/models, and read its report.

    Raises:
        GalleryError: the conversion failed, the model has other inputs or outputs than expected, or cannot be batched.
    """
    repository = folder / "models"
    if row.suffix is not None:  # else its script has converted it
        _run([sys.executable, "-m", "onnxserve", *row.command(folder, repository), "--replace"])
    report: Report = json.loads((repository / row.name / "1/report.json").read_text())
    takes = {spec.name: {"dtype": spec.dtype, "shape": list(spec.shape)} for spec in row.inputs}
    gives = {name: {"shape": list(axes)} for name, axes in row.gives.items()}
    for what, wanted in (("inputs", takes), ("outputs", gives)):
        if report["model"][what] != wanted:
            raise GalleryError(f"{what}: expected {wanted}, got {report['model'][what]}")
    if not report["proof"]["batchable"]:
        raise GalleryError(f"the server cannot batch it: {report['proof']['reason']}")
    return report


def ask_all(rows: Sequence[Row], folder: Path, faults: dict[str, str]) -> dict[str, Served]:
    """Serve the repository and call each model; failures are added to `faults`."""
    served = {}
    with serving(folder / "models") as address, Client(address) as client:
        for row in rows:
            try:
                served[row.name] = ask(client, row, folder)
            except (GalleryError, OnnxserveError) as error:
                faults[row.name] = str(error)
    return served


@contextmanager
def serving(repository: Path) -> Iterator[str]:
    """Run `onnxserve serve` on a free port, and give its address.

    Raises:
        GalleryError: the server does not start.
    """
    command = [
        sys.executable,
        "-m",
        "onnxserve",
        "serve",
        "--models",
        str(repository),
        "--port",
        "0",
        "--http-port",
        "-1",
    ]
    log = repository.parent / "server.log"
    with log.open("w+") as stderr:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            assert server.stdout is not None
            ready = re.match(r"onnxserve is ready on (\S+)", server.stdout.readline())
            if ready is None:
                raise GalleryError(f"the server did not start: {_last_line(log.read_text())}")
            yield ready[1]
        finally:
            server.terminate()
            server.communicate()


def ask(client: Client, row: Row, folder: Path) -> Served:
    """Call a model with each case of its answers, then with each row of the largest one by itself, all at once.

    Raises:
        GalleryError: an output has another shape or dtype than in the framework, or too large an error.
        OnnxserveError: a call failed.
    """
    cases = read_answers(folder / f"{row.name}.npz")
    error = 0.0
    for feeds, wanted in cases:
        error = max(error, difference(client.predict(row.name, feeds, timeout=CALL_S), wanted))

    feeds, wanted = max(cases, key=lambda case: len(next(iter(case[0].values()))))
    single = [{name: array[i : i + 1] for name, array in feeds.items()} for i in range(len(next(iter(feeds.values()))))]
    with ThreadPoolExecutor(len(single)) as threads:
        answers = list(threads.map(lambda one: client.predict(row.name, one, timeout=CALL_S), single))
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in wanted}
    rows = max(answer.receipt.batch_rows for answer in answers)
    return Served(error=max(error, difference(joined, wanted)), batch_rows=rows)


def difference(got: Arrays, wanted: Arrays) -> float:
    """Return the largest error over all outputs, as a share of the output's largest magnitude.

    Raises:
        GalleryError: an output has another shape or dtype, or a larger error than a conversion may have.
    """
    error = 0.0
    for name, expected in wanted.items():
        if (got[name].shape, got[name].dtype) != (expected.shape, expected.dtype):
            raise GalleryError(
                f"output {name}: got {got[name].dtype}{list(got[name].shape)}, "
                f"expected {expected.dtype}{list(expected.shape)}"
            )
        parity = compare(name, {}, got[name], expected, tolerances=TOLERANCES)
        if not parity.passes:
            raise GalleryError(f"output {name}: error {parity.error:.2g}, allowed {parity.allowed:.2g}")
        error = max(error, parity.relative)
    return error


def table(rows: Sequence[Row], reports: dict[str, Report], served: dict[str, Served]) -> Table:
    """Return the parity table. Errors are shares of an output's largest magnitude."""
    made = Table(
        title="Parity with the framework",
        caption="Errors are shares of an output's largest magnitude.",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("model", "framework", "converted from"):
        made.add_column(heading, no_wrap=True)
    for heading in ("cases", "error\nproved", "error\nserved", "rows\nbatched", "kB", "seconds"):
        made.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [row.name, row.framework, row.source]
        if row.name in reports:
            report, calls = reports[row.name], served.get(row.name)
            cells += [str(report["proof"]["cases"]), f"{proved_error(report):.0e}"]
            cells += [f"{calls.error:.0e}", str(calls.batch_rows)] if calls else ["failed", ""]
            cells += [f"{report['model']['bytes'] / 1e3:,.0f}", f"{report['seconds']:.1f}"]
        else:
            cells += ["failed"]
        made.add_row(*cells)
    return made


def proved_error(report: Report) -> float:
    """Return the largest error of a conversion, as a share of the output's largest magnitude."""
    return max(case["relative"] for case in report["proof"]["parity"])


def _run(command: Sequence[str]) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # the models are small, and others run beside
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        raise GalleryError(f"{' '.join(command[1:])} exited with {ended.returncode}: {_last_line(ended.stderr)}")


def _last_line(log: str) -> str:
    return log.strip().rpartition("\n")[2] or "no output"


if __name__ == "__main__":
    main()
