"""The public call: convert a model, from a file or from this process, and publish it."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from onnxserve_converters import conversion
from onnxserve_converters.conversion import Conversion, Limits, Progress
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec, parse_input
from onnxserve_converters.live import hand_over
from onnxserve_converters.request import TOLERANCES, Quantization, Request

MAX_INLINE_BYTES = 2000 << 20
"""So many bytes of weights can stand in the model's own file: protobuf ends at 2 GiB."""

_File = str | PathLike[str]


def convert(
    source: object,
    to: _File,
    *,
    inputs: Sequence[str | InputSpec] = (),
    outputs: Sequence[str] = (),
    class_path: str | None = None,
    class_arguments: Mapping[str, Any] | None = None,
    weights: _File | None = None,
    trust_code: bool = False,
    sizes: Mapping[str, Sequence[int]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    samples: _File | None = None,
    tolerances: Mapping[str, float] | None = None,
    opset: int | None = None,
    labels: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    doc: str | None = None,
    optimize: bool = False,
    quantize: Quantization | None = None,
    calibration: _File | None = None,
    float16: bool = False,
    max_error: float = Request.max_error,
    external_data_above: int = Request.external_data_above,
    replace: bool = False,
    timeout: float = Limits.seconds,
    memory_limit: int | None = None,
    progress: Progress = lambda _: None,
) -> Conversion:
    """Convert a model to ONNX in a process of its own, prove that it is the same, and publish it.

    Args:
        source: the model's file or folder, or the model itself: a torch.nn.Module or a keras.Model.
        to: REPOSITORY/NAME, which takes the next version's number, or REPOSITORY/NAME/VERSION.
        inputs: what the model takes, such as "image=float32[batch,3,32,32]", where it does not tell that itself.
        outputs: names for the outputs, in their order.
        class_path: "package.module:Class" or "file.py:Class", whose weights the source holds, or which its layers need.
        class_arguments: keyword arguments of that class.
        weights: the file of weights that belongs to an architecture file.
        trust_code: let code that stands in the source run.
        sizes: sizes to try, two or more, by free axis.
        ranges: smallest and largest random value, by input.
        samples: .npz file of arrays, by input, to prove with in place of random ones; its array "label", the right
            classes, gives accuracy too.
        tolerances: largest error by dtype, as a share of the output's largest magnitude, where request.TOLERANCES is
            not right.
        opset: the ONNX operator set to export with.
        labels: class names, by output, or of the first output.
        doc: what the model is, in a sentence.
        optimize: fuse and fold nodes.
        quantize: use 8-bit integers: "dynamic", or "static", which needs `calibration` or `samples`.
        calibration: .npz file of arrays, by input, as the model meets them.
        float16: use 16-bit floats.
        max_error: largest error of a quantized or float16 graph, as a share of the output's largest magnitude.
        external_data_above: bytes of weights from which on they go to a file of their own.
        replace: exchange a version that exists.
        timeout: seconds the conversion may take.
        memory_limit: bytes of memory it may use.
        progress: called with the name of each stage as it begins.

    Returns:
        Where the version is, and its report.

    Raises:
        BadRequest: it cannot be done as asked.
        ExportFailed: the exporter failed, or the conversion died or went past its limits.
        NotProved: the ONNX file does not do what the model does.
    """
    with hand_over(source) as handed:
        request = Request(
            source=handed.path,
            live=handed.live,
            inputs=_inputs(inputs),
            outputs=tuple(outputs),
            class_path=class_path,
            class_arguments=dict(class_arguments or {}),
            weights=_path(weights),
            trust_code=trust_code,
            sizes={axis: tuple(told) for axis, told in (sizes or {}).items()},
            ranges=dict(ranges or {}),
            samples=_path(samples),
            tolerances=_tolerances(tolerances or {}),
            opset=opset,
            labels=_labels(labels or {}),
            doc=doc,
            optimize=optimize,
            quantize=_quantization(quantize),
            calibration=_path(calibration),
            float16=float16,
            max_error=_share("max_error", max_error),
            external_data_above=min(external_data_above, MAX_INLINE_BYTES),
        )
        limits = Limits(seconds=timeout, memory_bytes=memory_limit)
        return conversion.run(request, Path(to), replace=replace, limits=limits, progress=progress)


def _inputs(told: Sequence[str | InputSpec]) -> tuple[InputSpec, ...]:
    specs = tuple(parse_input(spec) if isinstance(spec, str) else spec for spec in told)
    names = [spec.name for spec in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadRequest(f"input {twice[0]}: it is described twice")
    return specs


def _tolerances(told: Mapping[str, float]) -> dict[str, float]:
    for dtype, share in told.items():
        if dtype not in TOLERANCES:
            raise BadRequest(f"tolerance {dtype}: only {', '.join(TOLERANCES)} have one; others must be equal")
        _share(f"tolerance {dtype}", share)
    return {**TOLERANCES, **told}


def _share(name: str, share: float) -> float:
    if not 0 <= share < math.inf:
        raise BadRequest(f"{name}: {share} is no share of the output's largest magnitude; write a number such as 1e-3")
    return share


def _quantization(told: Quantization | None) -> Quantization | None:
    if told not in (None, *get_args(Quantization)):
        raise BadRequest(f"--quantize {told}: write dynamic or static")
    return told


def _labels(told: Mapping[str, Sequence[str]] | Sequence[str]) -> dict[str, list[str]]:
    by_output = told if isinstance(told, Mapping) else {"": told}
    return {output: [str(name) for name in names] for output, names in by_output.items()}


def _path(told: _File | None) -> Path | None:
    return None if told is None else Path(told)
