"""Describes an ONNX file without loading its external weights or ONNX Runtime."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, ModelProto, TensorProto, ValueInfoProto, helper

from onnxserve_converters import graph
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.interface import MIN_IR_VERSION
from onnxserve_converters.rows import rows_of
from onnxserve_server.spec import MAX_OPTIONAL

_FILE, _CONFIG, _REPORT = "model.onnx", "model.yaml", "report.json"

_PACKED_BITS = {"uint4": 4, "int4": 4, "float4_e2m1fn": 4, "uint2": 2, "int2": 2}
"""By element type smaller than a byte: its bits."""


def inspect(path: str | PathLike[str]) -> dict[str, Any]:
    """Describe an ONNX file.

    Args:
        path: an .onnx file, a version's directory, or a model's directory, for its newest version.

    Returns:
        file: the path of the file.
        bytes: of the file and its external data.
        external_data: [{"file", "bytes"}], the files of weights beside it; bytes is None where a file is missing.
        ir_version: of the format.
        opset: version by domain; the standard's is "ai.onnx".
        producer: name and version of the tool that wrote the file; "" where unknown.
        doc: the file's description; "" for none.
        inputs, outputs: {"dtype", "shape"} by name. The dtype is numpy's name, "string", or, for values other than
            tensors, "sequence", "map" or "optional". The shape is a list of sizes, names of free axes, and "?" for free
            axes without a name; None where it is not declared.
        optional_inputs: likewise, the inputs with a default, which a request may leave out.
        free_axes: their names, in the order of the inputs.
        parameters: {"count", "bytes", "by_dtype": {dtype: {"count", "bytes"}}} of the initializers: weights and
            other constants.
        operators: number of nodes by operator, the most frequent first; "Conv" is the standard's, others are named with
            their domain; inner graphs and functions are included.
        metadata: by key; text that is JSON is parsed.
        rows: {"verdict", "node", "reason"}: whether the graph shows that rows of a run cannot change each other
            ("independent"), that they reach a node together, where they may ("meet"), or neither ("unknown").
        config: the text of model.yaml in the model's directory; None without.
        report: the content of report.json beside the file; None without.

    Raises:
        BadRequest: the file does not exist or is not a valid ONNX file, or its report cannot be read.
    """
    file = _find(Path(path))
    model = _read(file)
    parameters = list(_parameters(model))
    external = _external_data(file, model, parameters)
    required, optional = _inputs(model)
    inputs, config = _values(required), _config(file)
    return {
        "file": str(file),
        "bytes": file.stat().st_size + sum(entry["bytes"] or 0 for entry in external),
        "external_data": external,
        "ir_version": model.ir_version,
        "opset": graph.opsets(model),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "doc": _text(model.doc_string),
        "inputs": inputs,
        "optional_inputs": _values(optional),
        "outputs": _values(model.graph.output),
        "free_axes": _free_axes(inputs),
        "parameters": _count(parameters),
        "operators": dict(sorted(graph.operators(model).items(), key=lambda entry: (-entry[1], entry[0]))),
        "metadata": {_text(entry.key): _parsed(_text(entry.value)) for entry in model.metadata_props},
        "rows": rows_of(model, required, config, optional),
        "config": config.read_text(errors="replace") if config is not None else None,
        "report": _report(file),
    }


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise BadRequest(f"{path}: no such file or directory")
    try:
        versions = sorted((each for each in path.iterdir() if each.name.isdecimal()), key=lambda each: int(each.name))
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error.strerror}") from error
    for folder in (path, *reversed(versions)):
        if (folder / _FILE).is_file():
            return folder / _FILE
    raise BadRequest(
        f"{path}: contains neither {_FILE} nor a version; expected an .onnx file, REPOSITORY/NAME or "
        "REPOSITORY/NAME/VERSION"
    )


def _read(file: Path) -> ModelProto:
    try:
        model = onnx.load(file, "protobuf", load_external_data=False)
    except OSError as error:
        raise BadRequest(f"{file}: cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's own
        raise BadRequest(f"{file}: not a valid ONNX file: {error}") from error
    if not (model.ir_version and model.HasField("graph")):
        raise BadRequest(f"{file}: not a valid ONNX file: it has no graph")
    return model


def _inputs(model: ModelProto) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """Return the inputs without the weights, which files of IR version 3 list too; and those that have a default."""
    weights = {tensor.name for tensor in model.graph.initializer}
    required = [value for value in model.graph.input if value.name not in weights]
    optional = [value for value in model.graph.input if value.name in weights]
    return required, optional if model.ir_version >= MIN_IR_VERSION and len(optional) <= MAX_OPTIONAL else []


def _values(values: Iterable[ValueInfoProto]) -> dict[str, dict[str, Any]]:
    return {_text(value.name): _value(value) for value in values}


def _value(value: ValueInfoProto) -> dict[str, Any]:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return {"dtype": (kind or "unknown").removesuffix("_type"), "shape": None}
    tensor = value.type.tensor_type
    shape = [
        _text(axis.dim_param) or (axis.dim_value if axis.HasField("dim_value") else "?") for axis in tensor.shape.dim
    ]
    return {"dtype": _dtype(tensor.elem_type), "shape": shape if tensor.HasField("shape") else None}


def _free_axes(values: dict[str, dict[str, Any]]) -> list[str]:
    axes = (axis for value in values.values() for axis in value["shape"] or ())
    return list(dict.fromkeys(axis for axis in axes if isinstance(axis, str) and axis != "?"))


def _text(text: str | bytes) -> str:
    """Return a field's text; what is not UTF-8, of which protobuf gives the bytes, is read with a replacement."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _dtype(number: int) -> str:
    try:
        name = helper.tensor_dtype_to_np_dtype(number).name
    except KeyError:
        return "unknown"
    return "string" if name == "object" else name


def _parameters(model: ModelProto) -> Iterator[TensorProto]:
    for inner in graph.graphs(model.graph):
        yield from inner.initializer
        yield from (sparse.values for sparse in inner.sparse_initializer)


def _count(parameters: Iterable[TensorProto]) -> dict[str, Any]:
    counts, sizes = Counter[str](), Counter[str]()
    for tensor in parameters:
        dtype = _dtype(tensor.data_type)
        counts[dtype] += math.prod(tensor.dims)
        sizes[dtype] += _size(tensor, dtype)
    by_dtype = {dtype: {"count": count, "bytes": sizes[dtype]} for dtype, count in counts.most_common()}
    return {"count": counts.total(), "bytes": sizes.total(), "by_dtype": by_dtype}


def _size(tensor: TensorProto, dtype: str) -> int:
    """Return the bytes of a tensor's values, computed from its shape: the values may be in another file."""
    if dtype in ("string", "unknown"):
        return sum(map(len, tensor.string_data))
    bits = _PACKED_BITS.get(dtype) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return math.ceil(math.prod(tensor.dims) * bits / 8)


def _external_data(file: Path, model: ModelProto, parameters: Iterable[TensorProto]) -> list[dict[str, Any]]:
    attributes = (attribute for node in graph.nodes(model) for attribute in node.attribute)
    tensors = chain(parameters, (tensor for attribute in attributes for tensor in _tensors(attribute)))
    names = {
        entry.value
        for tensor in tensors
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [{"file": name, "bytes": _bytes(file.parent / name)} for name in sorted(names)]


def _tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    yield from (attribute.t, *attribute.tensors)


def _bytes(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _config(file: Path) -> Path | None:
    """Return the model.yaml beside a version's directory; None without."""
    config = file.absolute().parent.with_name(_CONFIG)
    in_version = file.absolute().parent.name.isdecimal()
    return config if in_version and config.is_file() else None


def _report(file: Path) -> Any:
    report = file.with_name(_REPORT)
    if not report.is_file():
        return None
    try:
        return json.loads(report.read_text())
    except (OSError, ValueError) as error:
        raise BadRequest(f"{report}: cannot be read as JSON: {error}") from error
