"""The public call: convert a model, from a file or from this process, and publish it."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from onnxserve_converters import conversion
from onnxserve_converters.conversion import Conversion, Limits, Progress
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.in_memory import source_file
from onnxserve_converters.inputs import InputSpec, Range, parse_input
from onnxserve_converters.request import TOLERANCES, Quantization, Request

MAX_INLINE_BYTES = 2000 << 20
"""The most bytes of weights in the model's own file: protobuf is limited to 2 GiB."""

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
    task: str | None = None,
    trust_code: bool = False,
    sizes: Mapping[str, Sequence[int]] | None = None,
    ranges: Mapping[str, Range] | None = None,
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
    """Convert a model to ONNX in a process of its own, compare the two, and publish the ONNX model.

    Args:
        source: the model's file or directory, or the model itself: a torch.nn.Module or a keras.Model.
        to: REPOSITORY/NAME, for the next version number, or REPOSITORY/NAME/VERSION.
        inputs: descriptions such as "image=float32[batch,3,32,32]", where the source does not declare its inputs.
        outputs: names for the outputs, in their order.
        class_path: "package.module:Class" or "file.py:Class", the class of the weights or a custom class.
        class_arguments: keyword arguments of that class.
        weights: the weights file of an architecture file, or the name of an entry in a PyTorch checkpoint.
        task: what a Hugging Face model is used for, such as "text-classification", where not as it was saved.
        trust_code: allow code in the source to run.
        sizes: sizes to run at, two or more, by free axis.
        ranges: smallest and largest random value, or a list of strings to choose from, by input.
        samples: file of real rows to compare on in place of random ones: .npz with an array for each input, .npy with
            that of the only input, .csv or .parquet; an array or column "label" of the right classes gives the accuracy
            too.
        tolerances: largest error by dtype, as a share of the output's largest magnitude, in place of
            request.TOLERANCES.
        opset: the ONNX operator set to export with.
        labels: class names, by output, or of the first output.
        doc: a description of the model, in a sentence.
        optimize: fuse and fold nodes.
        quantize: use 8-bit integers: "dynamic", or "static", which needs `calibration` or `samples`.
        calibration: file of realistic rows, in the forms of `samples`.
        float16: use 16-bit floats.
        max_error: largest error of a quantized or float16 graph, as a share of the output's largest magnitude.
        external_data_above: bytes of weights above which they are stored in a file of their own.
        replace: replace an existing version.
        timeout: seconds the conversion may take.
        memory_limit: bytes of memory it may use.
        progress: called with the name of each stage as it starts.

    Returns:
        The version's path and its report.

    Raises:
        BadRequest: the request cannot be fulfilled.
        ExportFailed: the exporter failed, or the conversion died or exceeded a limit.
        NotProved: the ONNX file does not match the model.
    """
    with source_file(source) as file:
        request = Request(
            source=file.path,
            in_memory=file.in_memory,
            inputs=_inputs(inputs),
            outputs=tuple(outputs),
            class_path=class_path,
            class_arguments=dict(class_arguments or {}),
            weights=_path(weights),
            task=task,
            trust_code=trust_code,
            sizes={axis: tuple(given) for axis, given in (sizes or {}).items()},
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
            max_error=_checked_share("max_error", max_error),
            external_data_above=min(external_data_above, MAX_INLINE_BYTES),
        )
        limits = Limits(seconds=timeout, memory_bytes=memory_limit)
        return conversion.run(request, Path(to), replace=replace, limits=limits, progress=progress)


def _inputs(descriptions: Sequence[str | InputSpec]) -> tuple[InputSpec, ...]:
    specs = tuple(parse_input(spec) if isinstance(spec, str) else spec for spec in descriptions)
    names = [spec.name for spec in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadRequest(f"input {twice[0]}: described twice; describe each input once")
    return specs


def _tolerances(given: Mapping[str, float]) -> dict[str, float]:
    for dtype, share in given.items():
        if dtype not in TOLERANCES:
            raise BadRequest(
                f"tolerance {dtype}: only {', '.join(TOLERANCES)} have a tolerance; other dtypes are compared exactly"
            )
        _checked_share(f"tolerance {dtype}", share)
    return {**TOLERANCES, **given}


def _checked_share(name: str, share: float) -> float:
    if not 0 <= share < math.inf:
        raise BadRequest(
            f"{name}: {share} is not a valid share of the output's largest magnitude; expected a number of at least 0, "
            "such as 1e-3"
        )
    return share


def _quantization(mode: Quantization | None) -> Quantization | None:
    if mode not in (None, *get_args(Quantization)):
        raise BadRequest(f"--quantize {mode}: expected dynamic or static")
    return mode


def _labels(labels: Mapping[str, Sequence[str]] | Sequence[str]) -> dict[str, list[str]]:
    by_output = labels if isinstance(labels, Mapping) else {"": labels}
    return {output: [str(name) for name in names] for output, names in by_output.items()}


def _path(file: _File | None) -> Path | None:
    return None if file is None else Path(file)
