"""Sets a graph's interface: the names and axes of its inputs and outputs."""

from collections.abc import Sequence

import onnx
from onnx import ModelProto

from onnxserve_converters.errors import ExportFailed
from onnxserve_converters.graph import Axes, clean_domains, declarations, declared_values, graphs, strip
from onnxserve_converters.inputs import InputSpec

MIN_IR_VERSION = 4
"""The first whose graphs need not list their weights as inputs too; whoever does says that these are defaults."""


def stand_in(i: int) -> str:
    """Return a name for input `i` that no inner value or weight has, for exporters that would confuse the two."""
    return f"input__{i}__"


def set_interface(
    model: ModelProto, inputs: Sequence[InputSpec], outputs: Sequence[str], axes: Axes, adopted: bool = False
) -> None:
    """Set the names and axes of inputs and outputs, and remove the exporter's notes.

    Inputs have their names already, or those of stand_in(). An adopted file keeps its description and metadata, which
    its author wrote.

    Raises:
        ExportFailed: the graph has other inputs, or another number of outputs.
    """
    graph = model.graph
    initialised = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in initialised]
    del graph.input[:]
    graph.input.extend(kept)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    _name_inputs(graph, inputs)
    _check_inputs(graph, inputs)
    if len(graph.output) != len(outputs):
        raise ExportFailed(f"the exporter wrote {len(graph.output)} outputs, but the model has {len(outputs)}")
    _name_outputs(graph, outputs)
    for value in (*graph.input, *graph.output):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for axis in axes[value.name]:
            dimension = shape.dim.add()
            if isinstance(axis, int):
                dimension.dim_value = axis
            else:
                dimension.dim_param = axis
    own = declarations(model) if adopted else ModelProto()
    strip(model)
    clean_domains(model)
    model.metadata_props.extend(own.metadata_props)
    model.doc_string = own.doc_string


def _check_inputs(graph: onnx.GraphProto, inputs: Sequence[InputSpec]) -> None:
    written, wanted = [value.name for value in graph.input], [spec.name for spec in inputs]
    if unused := [name for name in wanted if name not in written]:
        raise ExportFailed(f"input {unused[0]}: the model does not use it; leave it out of the inputs")
    if more := [name for name in written if name not in wanted]:
        raise ExportFailed(
            f"the exporter wrote an unknown input {more[0]!r}; the model has {', '.join(wanted) or 'none'}"
        )


def _name_inputs(graph: onnx.GraphProto, inputs: Sequence[InputSpec]) -> None:
    """Rename stand-ins; an inner value or weight with the name of an input is renamed too."""
    taken = _value_names(graph)
    written = {value.name for value in graph.input}
    for i, spec in enumerate(inputs):
        if stand_in(i) in written:
            if spec.name in taken:
                _rename(graph, spec.name, _free_name(spec.name, taken))
            _rename(graph, stand_in(i), spec.name)
            taken.add(spec.name)


def _name_outputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Rename the outputs; an inner value with one of the names is renamed too."""
    if [value.name for value in graph.output] == list(names):
        return
    inputs, taken = {value.name for value in graph.input}, _value_names(graph) | set(names)
    passing = [_free_name(f"output_{i}", taken) for i in range(len(names))]  # so that two may swap their names
    for value, new in zip(graph.output, passing, strict=True):
        if value.name in inputs or value.name in passing:  # an input passed on, or one value given out twice
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [new]))
            value.name = new
        else:
            _rename(graph, value.name, new)
    for old, name in zip(passing, names, strict=True):
        if name in inputs:
            raise ExportFailed(f"output {name}: an input has the same name; name the outputs with --output")
        _rename(graph, name, _free_name(name, taken))
        _rename(graph, old, name)


def _value_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for inner in graphs(graph):
        names.update(value.name for value in declared_values(inner))
        names.update(name for node in inner.node for name in node.output)
    return names


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for inner in graphs(graph):
        for value in declared_values(inner):
            if value.name == old:
                value.name = new
        for node in inner.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
