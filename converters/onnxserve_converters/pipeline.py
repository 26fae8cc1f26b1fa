"""The stages of a conversion in the worker process: load, reference, export, check, prove, optimize, write."""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime

from onnxserve.tensor import Array
from onnxserve_converters import graph, interface
from onnxserve_converters.assets import publish_assets
from onnxserve_converters.attempts import Attempts
from onnxserve_converters.basis import Basis, basis_of
from onnxserve_converters.cases import Cases
from onnxserve_converters.comparison import unread_notes
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.evaluation import Candidate, Evaluator
from onnxserve_converters.optimization import check_steps, optimize
from onnxserve_converters.padding_trial import drawer_for
from onnxserve_converters.parity import Reference, check_repeats, observed_axes, run_reference
from onnxserve_converters.request import Request, beyond_defaults
from onnxserve_converters.row_hints import describe_inputs
from onnxserve_converters.rows import describe
from onnxserve_converters.samples import LABEL, read_samples
from onnxserve_converters.sources.base import Model
from onnxserve_converters.sources.detection import load_source

_REPEATED = 2
"""The number of cases that the reference is run on twice."""


def run(request: Request, work: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Convert, compare, and write the version's directory to `work`/version.

    Args:
        request: the options.
        work: an empty directory.
        progress: called with the name of each stage as it starts.

    Returns:
        {"report": the content of report.json, "config": the text that model.yaml needs}.

    Raises:
        ConverterError: nothing may be published.
    """
    began = time.monotonic()
    check_steps(request)
    progress("load")
    kind, model = load_source(request)
    samples, right = _samples(request, model)
    drawer = drawer_for(model, request.sizes, request.ranges)
    basis = basis_of(model.inputs, request.ranges, samples, drawer)
    cases = Cases(model.inputs, request.sizes, request.ranges, samples, drawer)
    calibration = _calibration(request, model, cases)

    progress("reference")
    references = run_reference(model, cases, request.outputs, drawer.unread)
    check_repeats(model, references[:_REPEATED], request.tolerances)
    axes = observed_axes(references)
    labels = _labels(request, model, references)

    version = work / "version"
    version.mkdir()
    final = version / "model.onnx"
    check = {"check": describe_inputs(model.inputs, request.sizes, request.ranges, samples, drawer)}
    hints = work / "check.json"
    hints.write_text(json.dumps(check))
    evaluator = Evaluator(references=references, tolerances=request.tolerances, cases=cases, right=right, report=hints)
    inputs_axes = {spec.name: spec.shape for spec in model.inputs}

    def evaluate(exported: Path) -> Candidate:
        progress("check")
        proto = graph.read(exported)
        interface.set_interface(proto, model.inputs, list(axes), {**axes, **inputs_axes}, adopted=kind == "onnx")
        graph.annotate(proto, model.inputs, axes, labels, request.doc)
        graph.write(proto, final, request.external_data_above)
        graph.check(final)
        progress("prove")
        return evaluator.evaluate(final)

    attempts = Attempts(
        model=model,
        opset=request.opset,
        older=kind != "onnx",
        cases=cases,
        references=references,
        tolerances=request.tolerances,
        evaluate=evaluate,
        progress=progress,
    )
    proved = attempts.run(work / "exported.onnx")
    optimized = optimize(request, final, proved, evaluator=evaluator, calibration=calibration, progress=progress)
    last = optimized.last
    described = _describe_model(model, axes, labels, final)
    assets = publish_assets(model, version)
    report = {
        "source": _describe_source(request, kind),
        "asked": beyond_defaults(request),
        **(check if check["check"] else {}),
        "model": described,
        **({"assets": assets} if assets else {}),
        "proof": _describe_parity(model, last, len(references), basis),
        "tried": attempts.tried,
        "shrinking": optimized.steps,
        "accuracy": _describe_accuracy(last, references, right),
        "notes": [*model.notes, *unread_notes(last.parity), *optimized.notes, *last.runtime.notes],
        "versions": _versions(model, request),
        "seconds": round(time.monotonic() - began, 3),
    }
    (version / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return {"report": report, "config": last.runtime.config}


def _samples(request: Request, model: Model) -> tuple[dict[str, Array] | None, Array | None]:
    """Return the arrays of the samples, or else of the calibration file, and its right classes; None without."""
    path = request.samples or request.calibration
    if path is None:
        return None, None
    arrays = read_samples(path, model.inputs)
    names = {spec.name for spec in model.inputs}
    samples = {name: array for name, array in arrays.items() if name in names}
    if LABEL in names or LABEL not in arrays:
        return samples, None
    right = arrays[LABEL]
    rows = len(samples[model.inputs[0].name])
    if right.dtype.kind not in "iubO" or right.shape[:1] != (rows,):
        raise BadRequest(
            f"{path}: array {LABEL!r} is {right.dtype}{list(right.shape)}; expected the right class, a number or a "
            f"string, for each of the {rows} rows"
        )
    return samples, right


def _calibration(request: Request, model: Model, cases: Cases) -> Cases:
    """Return the cases whose samples calibrate static quantization."""
    if request.calibration is None:
        return cases
    return Cases(model.inputs, request.sizes, {}, read_samples(request.calibration, model.inputs))


def _labels(request: Request, model: Model, references: list[Reference]) -> dict[str, list[str]]:
    """Return the class names by output, the caller's in place of the source's own; their number is checked."""
    outputs = references[0].outputs
    with_classes = [name for name, array in outputs.items() if array.ndim > 1]
    given = {name or next(iter(with_classes or outputs)): names for name, names in request.labels.items()}
    labels = {**{name: names for name, names in model.labels.items() if name in outputs}, **given}
    for name, names in labels.items():
        if name not in outputs:
            raise BadRequest(f"--labels {name}: unknown output; the model's outputs are {', '.join(outputs)}")
        if name not in with_classes:
            raise BadRequest(
                f"--labels {name}: the output has no class axis; outputs with one: {', '.join(with_classes) or 'none'}"
            )
        classes = outputs[name].shape[-1]
        if classes != len(names):
            raise BadRequest(f"--labels {name}: {len(names)} names for {classes} classes; give one name for each class")
    return labels


def _describe_source(request: Request, kind: str) -> dict[str, Any]:
    description: dict[str, Any] = {"kind": kind}
    if not request.in_memory:
        description |= {"file": request.source.name, "sha256": _sha256(request.source)}
    if request.weights is not None and request.weights.is_file():  # else the name of an entry
        description |= {"weights": request.weights.name, "weights_sha256": _sha256(request.weights)}
    return description


def _describe_model(model: Model, axes: graph.Axes, labels: Mapping[str, list[str]], file: Path) -> dict[str, Any]:
    return {
        "inputs": {spec.name: {"dtype": spec.dtype, "shape": list(spec.shape)} for spec in model.inputs},
        "outputs": {name: {"shape": list(shape)} for name, shape in axes.items()},
        "labels": sorted(labels),
        "opset": graph.opsets(graph.read(file, external_data=False)),
        "bytes": sum(path.stat().st_size for path in file.parent.iterdir()),
        "sha256": _sha256(file),
    }


def _describe_parity(model: Model, proved: Candidate, cases: int, basis: Basis) -> dict[str, Any]:
    return {
        "reference": model.reference,
        "cases": cases,
        "basis": basis.to_dict(),
        "batchable": proved.runtime.verdict.batchable,
        "reason": proved.runtime.verdict.reason,
        "rows": describe(proved.runtime.verdict.rows),
        "parity": [row.to_dict() for row in proved.parity],
    }


def _describe_accuracy(proved: Candidate, references: list[Reference], right: Array | None) -> dict[str, Any] | None:
    if right is None:
        return None
    return {"output": next(iter(references[0].outputs)), "rows": len(right), "share": proved.accuracy}


def _versions(model: Model, request: Request) -> dict[str, str]:
    packages = ("onnxserve", "onnx", "numpy", *(["onnxslim"] if request.optimize else []))
    own = {package: metadata.version(package) for package in packages}
    return {**own, "onnxruntime": onnxruntime.__version__, **model.versions, "python": platform.python_version()}


def _sha256(path: Path) -> str:
    """Return the digest of a file, or of a directory's files in the order of their paths."""
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
