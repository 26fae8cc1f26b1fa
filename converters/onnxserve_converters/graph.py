"""ONNX files: reading, writing, checks, metadata, and cleaning up what exporters and optimizers leave."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference

from onnxserve_converters.errors import ExportFailed, NotProved
from onnxserve_converters.inputs import InputSpec

Axes = Mapping[str, tuple[int | str, ...]]
"""By input or output, the size of each axis, or the name of a free axis."""

STANDARD = ("", "ai.onnx")
"""The two names of the domain of the standard's operators."""


def read(path: Path, *, external_data: bool = True) -> ModelProto:
    """Return a model, with or without the weights in its external data.

    Raises:
        ExportFailed: the file cannot be read.
    """
    try:
        return onnx.load(path, load_external_data=external_data)
    except Exception as error:  # protobuf's and onnx's own errors, and the file system's
        raise ExportFailed(f"{path}: cannot be read as ONNX: {error}") from error


def write(model: ModelProto, path: Path, external_data_above: int) -> None:
    """Write a model; weights of more bytes than `external_data_above` go to a file beside it."""
    size = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    if size <= external_data_above:
        onnx.save(model, path)
        return
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=_data_file(path).name,
        size_threshold=1024,
    )


def move(old: Path, new: Path) -> None:
    """Replace a file of the same name in another directory, external data included."""
    _data_file(new).unlink(missing_ok=True)
    for file in (old, _data_file(old)):
        if file.exists():
            file.replace(new.with_name(file.name))


def size(path: Path) -> int:
    """Return the bytes of a file and of its external data."""
    return sum(file.stat().st_size for file in (path, _data_file(path)) if file.exists())


def strip(model: ModelProto) -> None:
    """Remove inner shapes, which exporters get wrong, and notes, which contain file paths and source lines."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in graphs(model.graph):
        del graph.value_info[:]
        graph.doc_string = ""
        del graph.metadata_props[:]
        for part in (*graph.node, *declared_values(graph)):
            del part.metadata_props[:]
            part.doc_string = ""
    for function in model.functions:
        del function.metadata_props[:], function.value_info[:]
        function.doc_string = ""
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those inside its nodes: the branches of an If, the body of a Loop."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.output:  # attributes of other kinds have an empty graph here
                    yield from graphs(inner)


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node, inner graphs and functions included."""
    for graph in graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def gathered(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Yield each input that indexes the first axis of a weight, and the size of that axis."""
    sizes = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    origins = {value.name: value.name for value in graph.input}
    for node in graph.node:  # nodes are in the order in which they run
        if node.op_type in ("Cast", "Identity") and node.input[0] in origins:
            origins[node.output[0]] = origins[node.input[0]]
        first = all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
        if node.op_type == "Gather" and first and node.input[0] in sizes and node.input[1] in origins:
            yield origins[node.input[1]], sizes[node.input[0]]


def operators(model: ModelProto) -> Counter[str]:
    """Count the nodes by operator: "Conv" for the standard's own, "com.microsoft.FusedConv" for others."""
    return Counter(
        node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}" for node in nodes(model)
    )


def has_16_bit_floats(model: ModelProto) -> bool:
    """Whether weights or inputs are 16-bit floats."""
    dtypes = {value.type.tensor_type.elem_type for value in model.graph.input}
    dtypes |= {tensor.data_type for graph in graphs(model.graph) for tensor in graph.initializer}
    return not dtypes.isdisjoint((TensorProto.FLOAT16, TensorProto.BFLOAT16))


def opsets(model: ModelProto) -> dict[str, int]:
    """Return the version of each domain of operators; the standard's is "ai.onnx"."""
    return {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}


def declarations(model: ModelProto) -> ModelProto:
    """Return a model without its nodes and weights: inputs, outputs, metadata, description and producer."""
    declared = ModelProto(
        doc_string=model.doc_string,
        metadata_props=model.metadata_props,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )
    declared.graph.input.extend(model.graph.input)
    declared.graph.output.extend(model.graph.output)
    return declared


def restore_declarations(made: ModelProto, declared: ModelProto) -> None:
    """Restore the declarations of a rewritten model, and remove the notes of the tool that rewrote it.

    Its nodes are sorted, and unused operator domains removed.
    """
    strip(made)
    del made.graph.input[:], made.graph.output[:]
    made.MergeFrom(declared)
    _sort(made.graph)
    clean_domains(made)


def check(path: Path) -> None:
    """Check a file against the ONNX standard with onnx.checker and strict shape inference.

    Raises:
        NotProved: the file violates the standard.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
        with_shapes = path.with_suffix(".inferred")
        shape_inference.infer_shapes_path(str(path), str(with_shapes), check_type=True, strict_mode=True)
        with_shapes.unlink()
    except Exception as error:  # ValidationError, InferenceError and RuntimeError, by version
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise NotProved(f"the ONNX file violates the ONNX standard: {' '.join(lines)[:500]}") from error


def annotate(model: ModelProto, inputs: Sequence[InputSpec], outputs: Axes, labels: Mapping[str, list[str]],
             doc: str | None) -> None:  # fmt: skip
    """Write the metadata: signature, labels and description."""
    metadata = {"signature": json.dumps({
        "inputs": {spec.name: [spec.dtype, list(spec.shape)] for spec in inputs},
        "outputs": {name: list(axes) for name, axes in outputs.items()},
    })}  # fmt: skip
    if labels:
        metadata["labels"] = json.dumps(labels, ensure_ascii=False)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | metadata)
    if doc is not None:
        model.doc_string = doc


def _data_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def clean_domains(model: ModelProto) -> None:
    """Keep one entry for each domain in use: skl2onnx 1.20 writes the standard's twice, ONNX Runtime all its own."""
    used = {node.domain for node in nodes(model)} | {function.domain for function in model.functions} | {*STANDARD}
    kept = {entry.domain: entry.version for entry in model.opset_import if entry.domain in used}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in kept.items())


def _sort(graph: onnx.GraphProto) -> None:
    """Sort the nodes: each after those whose outputs it reads."""
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = {i: {makers[name] for name in _reads(node) if name in makers} for i, node in enumerate(graph.node)}
    ordered = [graph.node[i] for i in TopologicalSorter(needs).static_order()]
    del graph.node[:]
    graph.node.extend(ordered)


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield the names of the values that a node or its inner graphs read."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for inside in inner.node:
                yield from _reads(inside)
            yield from (value.name for value in inner.output)


def declared_values(graph: onnx.GraphProto) -> list[ValueInfoProto | TensorProto]:
    """Return the named values of a graph that no node computes."""
    return [*graph.input, *graph.output, *graph.initializer]
