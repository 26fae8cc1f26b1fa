"""The commands onnxserve convert and onnxserve inspect."""

import contextlib
import json as jsonlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.markup import escape

from onnxserve_converters import printing
from onnxserve_converters.api import convert as run
from onnxserve_converters.conversion import Limits
from onnxserve_converters.errors import BadRequest, ConverterError, NotProved
from onnxserve_converters.inputs import parse_ranges, parse_sizes
from onnxserve_converters.request import TOLERANCES, Quantization, Request

_INTERRUPTED = 130  # the exit code that shells use for Ctrl-C

_Json = Annotated[bool, typer.Option("--json", help="Print nothing but JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(convert)
    app.command()(inspect)


def convert(
    source: Annotated[
        Path,
        typer.Argument(help="The trained model: a file, or the directory of a SavedModel or of a Hugging Face model."),
    ],
    *,
    to: Annotated[str, typer.Option("--to", help="REPOSITORY/NAME for the next version, or REPOSITORY/NAME/VERSION.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help=escape("An input such as image=float32[batch,3,32,32]; a free axis is given by name.")
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None, typer.Option("--output", help="The name of the next output; give one for each output.")
    ] = None,
    class_path: Annotated[
        str | None,
        typer.Option("--class", help="package.module:Class or file.py:Class of the weights or custom layers."),
    ] = None,
    class_args: Annotated[str, typer.Option(help="Keyword arguments of that class, as a JSON object.")] = "{}",
    weights: Annotated[
        Path | None,
        typer.Option(help="The weights file of a Keras .json, or the entry of a PyTorch checkpoint, such as ema."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What a Hugging Face model is used for, such as text-classification; default: as it was saved."
        ),
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow code in the file to run with your permissions.")
    ] = False,
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help="Sizes of a free axis to run at, such as time=16,48.")
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            help="Smallest and largest value of an input, such as ids=0:999, or its strings, such as color=red|green.",
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Real rows, used in place of random ones, and optionally labels: .npz with an array for each input, "
            ".npy for the only one, .csv or .parquet."
        ),
    ] = None,
    tolerances: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance", help="Largest error of a dtype, as a share of the largest output, such as float32=1e-3."
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(min=1, help="The ONNX operator set to export with.")] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="File of class names, one a line or JSON, for the first output; for another: output=file."),
    ] = None,
    doc: Annotated[str | None, typer.Option(help="A description of the model, in a sentence.")] = None,
    optimize: Annotated[bool, typer.Option("--optimize", help="Fuse and fold nodes of the graph.")] = False,
    quantize: Annotated[
        str | None,
        typer.Option(help="Compute with 8-bit integers: dynamic, or static, which needs --calibration or --samples."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Realistic rows for --quantize static: .npz, .npy, .csv or .parquet.")
    ] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Compute with 16-bit floats.")] = False,
    max_error: Annotated[
        float, typer.Option(min=0, help="Largest error after these steps, as a share of the largest output.")
    ] = Request.max_error,
    external_data_above: Annotated[
        int,
        typer.Option(min=0, metavar="MIB", help="MiB of weights above which they are stored in a file of their own."),
    ] = Request.external_data_above >> 20,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the version if it exists.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="Seconds that the conversion may take.")
    ] = Limits.seconds,
    memory: Annotated[
        float | None, typer.Option(min=0.001, metavar="GIB", help="GiB of memory that it may use; default: no limit.")
    ] = None,
    json: _Json = False,
) -> None:
    """Convert a trained model to ONNX, compare the two, and publish the ONNX model to a model repository."""
    with _reported_errors(json), printing.Stages(quiet=json) as stages:
        conversion = run(
            source,
            to,
            inputs=inputs or (),
            outputs=outputs or (),
            class_path=class_path,
            class_arguments=_class_arguments(class_args),
            weights=weights,
            task=task,
            trust_code=trust_code,
            sizes=parse_sizes(sizes or ()),
            ranges=parse_ranges(ranges or ()),
            samples=samples,
            tolerances=_tolerances(tolerances or ()),
            opset=opset,
            labels=_labels(labels or ()),
            doc=doc,
            optimize=optimize,
            quantize=cast("Quantization | None", quantize),  # run() checks it
            calibration=calibration,
            float16=float16,
            max_error=max_error,
            external_data_above=external_data_above << 20,
            replace=replace,
            timeout=timeout,
            memory_limit=None if memory is None else int(memory * (1 << 30)),
            progress=stages,
        )
    if json:
        typer.echo(jsonlib.dumps({"path": str(conversion.path), "report": conversion.report}, indent=2))
    else:
        printing.conversion(conversion)


def inspect(
    path: Annotated[
        Path, typer.Argument(help="An .onnx file, the directory of a version, or the directory of a model.")
    ],
    *,
    json: _Json = False,
) -> None:
    """Show an ONNX file's inputs, outputs, operators, parameters and metadata, and its conversion report."""
    from onnxserve_converters.inspection import inspect as look

    with _reported_errors(json):
        found = look(path)
    if json:
        typer.echo(jsonlib.dumps(found, indent=2))
    else:
        printing.inspection(found)


@contextlib.contextmanager
def _reported_errors(json: bool) -> Iterator[None]:
    """Print an error of the conversion in one line on stderr, and exit with its code."""
    try:
        yield
    except ConverterError as error:
        report = error.report if isinstance(error, NotProved) else {}
        if json:
            typer.echo(jsonlib.dumps({"error": str(error), "report": report or None}, indent=2))
        else:
            printing.failure(report)
        _end(str(error), error.exit_code)
    except KeyboardInterrupt:
        _end("interrupted; nothing was published", _INTERRUPTED)


def _end(message: str, code: int) -> NoReturn:
    typer.echo(f"onnxserve: {printing.printable(message)}", err=True)
    raise typer.Exit(code) from None


def _class_arguments(text: str) -> dict[str, Any]:
    try:
        arguments = jsonlib.loads(text)
    except ValueError as error:
        raise BadRequest(f"--class-args: not valid JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise BadRequest('--class-args: expected a JSON object of keyword arguments, such as {"hidden": 64}')
    return arguments


def _tolerances(texts: Sequence[str]) -> dict[str, float]:
    tolerances = {}
    for text in texts:
        dtype, _, share = text.partition("=")
        try:
            tolerances[dtype.strip()] = float(share)
        except ValueError:
            raise BadRequest(
                f"--tolerance {text}: expected dtype=share, such as float32=1e-3, for one of {', '.join(TOLERANCES)}"
            ) from None
    return tolerances


def _labels(texts: Sequence[str]) -> dict[str, list[str]]:
    """Read files of class names, by output; the key "" stands for the first output."""
    labels: dict[str, list[str]] = {}
    for text in texts:
        output, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            output, file = "", text
        names = _read_labels(Path(file))
        labels |= names if isinstance(names, dict) else {output: names}
    return labels


def _read_labels(path: Path) -> list[str] | dict[str, list[str]]:
    labels: list[str] | dict[str, list[str]]
    try:
        text = path.read_text()
        labels = jsonlib.loads(text) if path.suffix == ".json" else text.splitlines()
    except OSError as error:
        raise BadRequest(f"--labels {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadRequest(f"--labels {path}: cannot be read: {error}") from error
    for names in labels.values() if isinstance(labels, dict) else [labels]:
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise BadRequest(
                f"--labels {path}: expected one name a line, or JSON: a list of names, or an object of lists by output"
            )
    return labels
