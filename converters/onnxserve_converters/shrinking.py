"""Make a proved graph smaller or faster, and say in figures whether it paid."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxserve_converters import graph
from onnxserve_converters.errors import BadRequest, ConverterError, ExportFailed, NotProved, one_line
from onnxserve_converters.halving import to_float16
from onnxserve_converters.inputs import Cases
from onnxserve_converters.measuring import compare
from onnxserve_converters.optimizing import optimize
from onnxserve_converters.quantizing import is_quantized, quantize_dynamic, quantize_static
from onnxserve_converters.request import Request
from onnxserve_converters.trial import Candidate, Trial

_STATIC = "quantize static"
_OWN_DOMAIN = "com.microsoft"
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """What the steps left at the file's path.

    Attributes:
        last: that file, proved.
        steps: for the report, one entry a step, as measuring.compare() makes them.
        notes: what a reader of the report must know, such as that a step did not pay.
    """

    last: Candidate
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Step:
    """A change of the graph.

    Attributes:
        stage: as conversion.STAGES has it.
        name: for people.
        make: from a model with its weights, and a folder for files on the way, makes another model.
        max_error: as for proof.prove().
    """

    stage: str
    name: str
    make: Callable[[ModelProto, Path], ModelProto]
    max_error: float | None = None


def check(request: Request) -> None:
    """Check that the steps asked for go together.

    Raises:
        BadRequest: they do not, or what one of them needs is missing.
    """
    if request.quantize and request.float16:
        raise BadRequest("--quantize and --float16 exclude each other: choose one")
    if request.calibration and request.quantize != "static":
        raise BadRequest("--calibration is for --quantize static alone; leave it out")
    if request.quantize == "static" and not (request.calibration or request.samples):
        raise BadRequest(
            "--quantize static needs to see what the model is made for: give --calibration file.npz (or --samples), "
            "with an array for each input"
        )


def shrink(
    request: Request,
    path: Path,
    proved: Candidate,
    *,
    trial: Trial,
    calibration: Cases,
    tell: Callable[[str], None],
) -> Shrunk:
    """Take the steps that the request asks for, each on what the one before left, and put the result at `path`.

    Args:
        request: names the steps; check() has passed it.
        path: the proved file, in a folder of its own; files on the way go to the folder above.
        proved: that file.
        trial: what each step's result goes through.
        calibration: its samples are what static quantization observes.
        tell: called with the name of each stage as it begins.

    Raises:
        NotProved: a step took the graph too far from the references.
        ExportFailed: a step could not be done.
        BadRequest: a step is not for this graph.
    """
    steps = list(_steps(request, calibration))
    if not steps:
        return Shrunk(last=proved)
    candidates, notes = [proved], []
    for step in steps:
        tell(step.stage)
        candidate, told = _take(step, path, trial, request.external_data_above)
        candidates.append(candidate)
        notes += [f"{step.name}: {note}" for note in told]
    tell("measure")
    feeds = {rows: trial.cases.rows(rows).feeds for rows in trial.cases.row_counts()}
    entries = [
        compare(step.name, before, after, feeds)
        for step, (before, after) in zip(steps, pairwise(candidates), strict=True)
    ]
    notes += [f"{entry['step']} does not pay: {entry['why']}" for entry in entries if not entry["pays"]]
    return Shrunk(last=candidates[-1], steps=entries, notes=notes)


def _steps(request: Request, calibration: Cases) -> Iterator[_Step]:
    bound = request.max_error
    if request.optimize:
        # What follows knows the standard's operators alone.
        fuse = not (request.quantize or request.float16)
        yield _Step("optimize", "optimize", partial(optimize, fuse=fuse))
    if request.quantize == "dynamic":
        yield _Step("quantize", "quantize dynamic", quantize_dynamic, bound)
    if request.quantize == "static":
        yield _Step("quantize", _STATIC, partial(quantize_static, calibration=calibration), bound)
    if request.float16:
        yield _Step("float16", "float16", to_float16, bound)


def _take(step: _Step, path: Path, trial: Trial, external_data_above: int) -> tuple[Candidate, list[str]]:
    """Replace the file by what a step makes of it, once that is proved; return it, and what is to be said of it."""
    given = graph.read(path)
    declared = graph.declarations(given)
    if step.stage == "quantize" and graph.is_half(given):
        raise BadRequest("--quantize: the model has 16-bit floats; quantize the float32 model that it was made from")
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
        made = _make(step, given, Path(folder))
        graph.settle(made, declared)
        file = Path(folder) / path.name
        graph.write(made, file, external_data_above)
        try:
            graph.check(file)
            candidate = trial.run(file, step.max_error)
        except NotProved as error:
            raise NotProved(f"{step.name}: {error}; {_cure(step)}", error.report) from None
        graph.move(file, path)
    return candidate, _notes(step, made)


def _make(step: _Step, given: ModelProto, scratch: Path) -> ModelProto:
    try:
        return step.make(given, scratch)
    except ConverterError:
        raise
    except Exception as error:  # onnxslim's, onnx's and ONNX Runtime's own, of any class
        raise ExportFailed(f"{step.name}: {one_line(error)}; leave this step out") from error


def _cure(step: _Step) -> str:
    if step.max_error is None:
        return "leave this step out"
    calibrate = "calibrate with data more like what it is tried with, " if step.name == _STATIC else ""
    return f"{calibrate}leave this step out, or allow more with --max-error, now {step.max_error:g}"


def _notes(step: _Step, made: ModelProto) -> list[str]:
    notes = []
    operators = graph.operators(made)
    if step.stage == "optimize" and any(operator.startswith(_OWN_DOMAIN) for operator in operators):
        notes.append(
            "some nodes are ONNX Runtime's own now, chosen for the CPU; for a GPU publish the model without this step"
        )
    if step.stage == "optimize" and graph.is_half(made):
        notes.append("done by onnxslim alone: ONNX Runtime would save with it the CPU's conversions to float32")
    if step.stage == "quantize":
        if not is_quantized(made):
            notes.append("nothing was quantized: no operator that it takes has constant weights")
        if recurrent := [operator for operator in _RECURRENT if operator in operators]:
            notes.append(f"{' and '.join(recurrent)} layers stay in float32")
    if step.stage == "float16":
        notes.append("measured on the CPU, which computes in float32 between conversions; a GPU computes in float16")
    return notes
