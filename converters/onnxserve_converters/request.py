"""The options of a conversion, in one value that is sent to the worker process."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from onnxserve_converters.inputs import InputSpec, Range

TOLERANCES = {"float16": 1e-2, "bfloat16": 1e-1, "float32": 1e-4, "float64": 1e-6}
"""By dtype: the largest error, as a share of the output's largest magnitude. Other dtypes must be equal."""

Quantization = Literal["dynamic", "static"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A conversion: its source, its options, and how it is compared.

    Attributes:
        source: the model's file or folder.
        in_memory: whether the source is an object of the calling process that was written to `source` for the worker.
        inputs: descriptions; empty where the model declares its own.
        outputs: names for the outputs, in their order; empty: the model's own.
        class_path: "package.module:Class", whose weights the source holds, or which the source's layers need.
        class_arguments: keyword arguments of the class.
        weights: the weights that belong to an architecture file, or the name of an entry in a PyTorch checkpoint.
        task: what a Hugging Face model is used for, such as "text-classification"; None: as it was saved.
        trust_code: whether code inside the source may run.
        sizes: sizes to try, by free axis.
        ranges: smallest and largest random value, or strings to choose from, by input.
        samples: file of arrays, by input, to compare on, as samples.read_samples() takes it; with an array "label"
            they give accuracy too.
        tolerances: as TOLERANCES.
        opset: the ONNX operator set; None: the exporter's own choice.
        labels: class names, by output; "" is the first output.
        doc: what the model is, in a sentence.
        optimize, quantize, calibration, float16: the optimization steps after the first comparison.
        max_error: the largest error of such a graph, as a share of the output's largest magnitude.
        external_data_above: bytes of weights above which they are stored in a file of their own.
    """

    source: Path
    in_memory: bool = False
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    class_path: str | None = None
    class_arguments: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    task: str | None = None
    trust_code: bool = False
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    samples: Path | None = None
    tolerances: dict[str, float] = field(default_factory=lambda: dict(TOLERANCES))
    opset: int | None = None
    labels: dict[str, list[str]] = field(default_factory=dict)
    doc: str | None = None
    optimize: bool = False
    quantize: Quantization | None = None
    calibration: Path | None = None
    float16: bool = False
    max_error: float = 0.05
    external_data_above: int = 1 << 30


def beyond_defaults(request: Request) -> dict[str, Any]:
    """Return the options that differ from their defaults, as JSON values; files by their names alone."""
    default = Request(source=request.source, in_memory=request.in_memory)
    values = {each.name: getattr(request, each.name) for each in fields(request)}
    return {name: _plain(value) for name, value in values.items() if value != getattr(default, name)}


def _plain(value: object) -> Any:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | None) else str(value)
