"""The optimization steps: make a graph smaller or faster, compare it again, and measure whether that pays."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxserve_converters import graph
from onnxserve_converters.cases import Cases
from onnxserve_converters.errors import BadRequest, ConverterError, ExportFailed, NotProved, one_line
from onnxserve_converters.evaluation import Candidate, Evaluator
from onnxserve_converters.float16 import to_float16
from onnxserve_converters.measuring import measure_step
from onnxserve_converters.quantizing import is_quantized, quantize_dynamic, quantize_static
from onnxserve_converters.request import Request
from onnxserve_converters.simplification import simplify

_STATIC = "quantize static"
_OWN_DOMAIN = "com.microsoft"
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """The result of the steps at the file's path.

    Attributes:
        last: that file, evaluated.
        steps: for the report, an entry of measuring.measure_step() for each step.
        notes: warnings for the reader of the report, such as that a step did not pay.
    """

    last: Candidate
    steps: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Step:
    """A change of the graph.

    Attributes:
        stage: one of conversion.STAGES.
        name: for people.
        make: makes another model from a model with its weights and a directory for temporary files.
        max_error: as for parity.check_parity().
    """

    stage: str
    name: str
    make: Callable[[ModelProto, Path], ModelProto]
    max_error: float | None = None


def check_steps(request: Request) -> None:
    """Check that the requested steps can be combined.

    Raises:
        BadRequest: they cannot, or a step lacks its samples.
    """
    if request.quantize and request.float16:
        raise BadRequest("--quantize and --float16 cannot be combined; choose one")
    if request.calibration and request.quantize != "static":
        raise BadRequest("--calibration is used by --quantize static only; leave it out")
    if request.quantize == "static" and not (request.calibration or request.samples):
        raise BadRequest(
            "--quantize static needs realistic inputs: give --calibration file.npz (or --samples) with an array for "
            "each input"
        )


def optimize(
    request: Request,
    path: Path,
    proved: Candidate,
    *,
    evaluator: Evaluator,
    calibration: Cases,
    progress: Callable[[str], None],
) -> Optimized:
    """Run the requested steps, each on the result of the one before, and put the last result at `path`.

    Args:
        request: names the steps; check_steps() has accepted it.
        path: the file, in a directory of its own; temporary files go to its parent directory.
        proved: that file, evaluated.
        evaluator: evaluates each step's result.
        calibration: its samples calibrate static quantization.
        progress: called with the name of each stage as it starts.

    Raises:
        NotProved: the errors after a step are too large.
        ExportFailed: a step failed.
        BadRequest: a step does not apply to this graph.
    """
    steps = list(_steps(request, calibration))
    if not steps:
        return Optimized(last=proved)
    candidates, notes = [proved], []
    for step in steps:
        progress(step.stage)
        candidate, step_notes = _run_step(step, path, evaluator, request.external_data_above)
        candidates.append(candidate)
        notes += [f"{step.name}: {note}" for note in step_notes]
    progress("measure")
    feeds = {rows: evaluator.cases.rows(rows).feeds for rows in evaluator.cases.row_counts()}
    entries = [
        measure_step(step.name, before, after, feeds)
        for step, (before, after) in zip(steps, pairwise(candidates), strict=True)
    ]
    notes += [f"{entry['step']} does not pay: {entry['why']}" for entry in entries if not entry["pays"]]
    return Optimized(last=candidates[-1], steps=entries, notes=notes)


def _steps(request: Request, calibration: Cases) -> Iterator[_Step]:
    bound = request.max_error
    if request.optimize:
        # The steps after it know only the standard's operators.
        fuse = not (request.quantize or request.float16)
        yield _Step("optimize", "optimize", partial(simplify, fuse=fuse))
    if request.quantize == "dynamic":
        yield _Step("quantize", "quantize dynamic", quantize_dynamic, bound)
    if request.quantize == "static":
        yield _Step("quantize", _STATIC, partial(quantize_static, calibration=calibration), bound)
    if request.float16:
        yield _Step("float16", "float16", to_float16, bound)


def _run_step(step: _Step, path: Path, evaluator: Evaluator, external_data_above: int) -> tuple[Candidate, list[str]]:
    """Replace the file by a step's result, once that is evaluated; return it, and notes on it."""
    given = graph.read(path)
    declared = graph.declarations(given)
    if step.stage == "quantize" and graph.has_16_bit_floats(given):
        raise BadRequest("--quantize: the model has 16-bit floats; quantize the float32 model that it was made from")
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
        made = _make(step, given, Path(folder))
        graph.restore_declarations(made, declared)
        file = Path(folder) / path.name
        graph.write(made, file, external_data_above)
        try:
            graph.check(file)
            candidate = evaluator.evaluate(file, step.max_error)
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
    calibrate = "calibrate with data more like the samples, " if step.name == _STATIC else ""
    return f"{calibrate}leave this step out, or allow more with --max-error, now {step.max_error:g}"


def _notes(step: _Step, made: ModelProto) -> list[str]:
    notes = []
    operators = graph.operators(made)
    if step.stage == "optimize" and any(operator.startswith(_OWN_DOMAIN) for operator in operators):
        notes.append("some nodes are now ONNX Runtime's own, chosen for the CPU; for a GPU convert without this step")
    if step.stage == "optimize" and graph.has_16_bit_floats(made):
        notes.append("done by onnxslim alone: ONNX Runtime would add the CPU's conversions to float32 to the file")
    if step.stage == "quantize":
        if not is_quantized(made):
            notes.append("nothing was quantized: no operator that can be quantized has constant weights")
        if recurrent := [operator for operator in _RECURRENT if operator in operators]:
            notes.append(f"{' and '.join(recurrent)} layers stay in float32")
    if step.stage == "float16":
        notes.append("measured on the CPU, which computes in float32 between conversions; a GPU computes in float16")
    return notes
