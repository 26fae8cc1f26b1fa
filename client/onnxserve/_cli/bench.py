"""`onnxserve bench`: latency and throughput of a served model under load."""

import json as jsonlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from onnxserve import Client, InvalidArgument, ModelRunFailed
from onnxserve._base import DEFAULT_TIMEOUT
from onnxserve._bench import advice, plot, workload
from onnxserve._bench.generator import Generator
from onnxserve._bench.load import Arrivals, Callers, Load, Rate
from onnxserve._bench.report import Report
from onnxserve._bench.sample import Sample
from onnxserve._cli.bench_printing import Progress, print_report
from onnxserve._cli.connection import DEFAULT_TARGET, Ca, Target, Tls, connect, credentials_of
from onnxserve._inputs import INPUT_HELP, InputError, read_inputs

_INTERRUPTED = 130  # exit code, as shells have it
_DEFAULT_CONCURRENCY = "1,4,16,64"

_Number = TypeVar("_Number", int, float)


def bench(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help=f"Numbers of concurrent callers, each with one request in flight; default: {_DEFAULT_CONCURRENCY}.",
        ),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Requests per second, sent whether answers arrive or not.")
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option(help="How the requests of a rate are spread over time.")
    ] = Arrivals.POISSON,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help=f"{INPUT_HELP} Missing inputs are made up.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows per request; default: 1, or all rows of --input.")
    ] = None,
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help="Size of a free axis of made-up inputs, such as time=16.")
    ] = None,
    outputs: Annotated[list[str] | None, typer.Option("--output", help="An output to ask for; default: all.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="The version to run; default: the newest.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds to measure each load.")] = 5.0,
    warm_up: Annotated[float, typer.Option(min=0.0, help="Seconds to run each load before it is measured.")] = 1.0,
    stream: Annotated[bool, typer.Option("--stream", help="Send all requests on one call of Stream.")] = False,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for each answer.")] = DEFAULT_TIMEOUT,
    limit_ms: Annotated[
        float | None,
        typer.Option(
            "--limit-ms",
            min=0.0,
            help="The limit of p99 for the best load; default: none, and the best is the knee of the curve.",
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures to this file; -: to stdout, and nothing else."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw latency over throughput: .html, .svg or .png.")
    ] = None,
    target: Target = DEFAULT_TARGET,
    tls: Tls = False,
    ca: Ca = None,
) -> None:
    """Measure latency and throughput of a served model under one load after another.

    Ctrl-C ends the measurement and prints the results until then.
    """
    loads = _loads(concurrency, rate, arrivals)
    axis_sizes = _sizes(sizes or ())
    _check_files(json, picture)
    with connect(target, tls=tls, ca=ca) as client:
        info = client.model(model, version, timeout=timeout)
        try:
            given = read_inputs(inputs or (), info.inputs)
            requests = workload.make(info.inputs, given, rows=rows, sizes=axis_sizes)
        except InputError as error:
            raise typer.BadParameter(str(error)) from None
        _try_once(client, model, requests, outputs=outputs or None, version=version, timeout=timeout)
    generator = Generator(
        target=target,
        credentials=credentials_of(tls=tls, ca=ca),
        messages=requests.messages(
            model, outputs=outputs or None, version=version, timeout=timeout if stream else None
        ),
        rows=requests.rows,
        timeout=timeout,
        stream=stream,
        warm_up=warm_up,
        seconds=seconds,
    )
    samples, is_interrupted = _sweep(generator, loads)
    report = Report(
        info=info,
        workload=requests,
        generator=generator,
        limit_ms=limit_ms,
        samples=samples,
        best=advice.best(samples, info, limit_ms),
        interrupted=is_interrupted,
    )
    _write(report, json, picture)
    if is_interrupted:
        raise typer.Exit(_INTERRUPTED)
    if not any(sample.succeeded for sample in samples):
        typer.echo("onnxserve: no request was answered", err=True)
        raise typer.Exit(1)


def _loads(concurrency: str | None, rate: str | None, arrivals: Arrivals) -> list[Load]:
    if concurrency is not None and rate is not None:
        raise typer.BadParameter("give only one of the two", param_hint="--concurrency and --rate")
    if rate is not None:
        return [Rate(each, arrivals) for each in _numbers(rate, float, "--rate")]
    return [Callers(each) for each in _numbers(concurrency or _DEFAULT_CONCURRENCY, int, "--concurrency")]


def _numbers(text: str, kind: Callable[[str], _Number], option: str) -> list[_Number]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise typer.BadParameter(f"expected numbers above 0, such as 1,4,16, not {text!r}", param_hint=option)
    return numbers


def _sizes(texts: Sequence[str]) -> dict[str, int]:
    sizes = {}
    for text in texts:
        axis, _, size = text.rpartition("=")
        if not (axis and size.isdecimal()):
            raise typer.BadParameter(f"expected axis=size, such as time=16, not {text!r}", param_hint="--size")
        sizes[axis] = int(size)
    return sizes


def _check_files(json: Path | None, picture: Path | None) -> None:
    """Refuse files that cannot be written, before the measurement."""
    if json and not json.parent.is_dir():
        raise typer.BadParameter(f"{json}: {json.parent} is not a directory", param_hint="--json")
    try:
        if picture:
            plot.check(picture)
    except (ValueError, ImportError) as error:
        raise typer.BadParameter(str(error), param_hint="--plot") from None


def _try_once(
    client: Client,
    model: str,
    requests: workload.Workload,
    *,
    outputs: Sequence[str] | None,
    version: str | None,
    timeout: float,
) -> None:
    """Send the first request; if it is refused, the others would be too."""
    try:
        client.predict(model, requests.requests[0], outputs=outputs, version=version, timeout=timeout)
    except (InvalidArgument, ModelRunFailed) as error:
        if not requests.made_up:
            raise
        made_up = ", ".join(requests.made_up)
        cure = " ".join(f"--input {name}=FILE" for name in requests.made_up)
        typer.echo(f"onnxserve: {error}\nThe values of {made_up} were made up; give real ones: {cure}", err=True)
        raise typer.Exit(1) from None


def _sweep(generator: Generator, loads: Sequence[Load]) -> tuple[list[Sample], bool]:
    """Return the samples, and whether Ctrl-C ended the sweep."""
    samples: list[Sample] = []
    with Progress(loads) as progress:
        try:
            for load in loads:
                progress.begin(load)
                sample = generator.measure(load, progress)
                if sample.complete or sample.requests:
                    samples.append(sample)
                if not sample.complete:
                    return samples, True
                progress.end(sample)
        except KeyboardInterrupt:
            return samples, True
    return samples, False


def _write(report: Report, json: Path | None, picture: Path | None) -> None:
    text = jsonlib.dumps(report.to_dict(), indent=2) if json else ""
    if json == Path("-"):
        typer.echo(text)
    else:
        print_report(report)
    try:
        if json and json != Path("-"):
            json.write_text(text + "\n")
        if picture:
            plot.write(picture, report)
    except OSError as error:
        typer.echo(f"onnxserve: {error}", err=True)
        raise typer.Exit(1) from None
