"""Frees the batch axis of an ONNX graph that was exported for one row."""

from collections.abc import Iterable

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, numpy_helper

from onnxserve.tensor import Array

_SAME = 0  # in the shape of a Reshape: the size of the input's axis
_INFERRED = -1


def free_batch_axis(graph: GraphProto, inputs: Iterable[str]) -> None:
    """Make Reshapes to one row accept any number of rows.

    Other operators that an exporter fixed to one row stay: only a run shows whether the graph accepts several.

    Args:
        graph: its Reshapes are changed.
        inputs: the inputs whose first axis becomes free.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(attribute.t)
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.type == AttributeProto.TENSOR
    }
    of_the_rows = set(inputs)
    for node in graph.node:  # nodes are in the order in which they run
        if of_the_rows.isdisjoint(node.input):
            continue
        of_the_rows.update(node.output)
        if node.op_type == "Reshape" and (shape := _shape_for_rows(node, constants)) is not None:
            name = f"{node.output[0]}__freed_shape"
            graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name


def _shape_for_rows(node: NodeProto, constants: dict[str, Array]) -> Array | None:
    """Return a Reshape's shape for any number of rows; None where its constant shape does not begin with 1."""
    shape = constants.get(node.input[1]) if len(node.input) > 1 else None
    if shape is None or shape[:1].tolist() != [1]:
        return None
    freed = np.array(shape)
    freed[0] = _INFERRED if _INFERRED not in shape else _SAME
    return freed
