"""Small ONNX models whose rows meet, or look as if they did. The batch axis of all is the first one, "n"."""

import numpy as np
from onnx import TensorProto, helper

from support.zoo import FLOAT, INT64, constant, model, tensor


def share_of_largest(shape, dtype=INT64):
    """y = x / the largest x of the run."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Div", ["x", "largest"], ["y"]),
    ]
    return model(nodes, [tensor("x", shape, dtype)], [tensor("y", shape, dtype)])


def masks_beside_ids(lengths_first):
    """mask = position < length, as long as the longest of the run, and doubled = 2 ids; the inputs in either order."""
    nodes = [
        helper.make_node("ReduceMax", ["lengths"], ["longest"], keepdims=0),
        helper.make_node("Range", ["zero", "longest", "one"], ["positions"]),
        helper.make_node("Unsqueeze", ["lengths", "axes"], ["ends"]),
        helper.make_node("Less", ["positions", "ends"], ["mask"]),
        helper.make_node("Mul", ["ids", "two"], ["doubled"]),
    ]
    inputs = [tensor("lengths", ["n"], INT64), tensor("ids", ["n", "k"], INT64)]
    outputs = [tensor("mask", ["n", "t"], TensorProto.BOOL), tensor("doubled", ["n", "k"], INT64)]
    values = [constant(name, value, np.int64) for name, value in (("zero", 0), ("one", 1), ("axes", [1]), ("two", 2))]
    return model(nodes, inputs if lengths_first else inputs[::-1], outputs, values)


def loud_neighbour(threshold, columns=4):
    """y = x, or 0 where no x of the run is above the threshold: float32 [n, columns]."""
    nodes = [
        helper.make_node("Greater", ["x", "threshold"], ["above"]),
        helper.make_node("Cast", ["above"], ["ones"], to=FLOAT),
        helper.make_node("ReduceMax", ["ones"], ["any"], keepdims=0),
        helper.make_node("Mul", ["x", "any"], ["y"]),
    ]
    return model(
        nodes, [tensor("x", ["n", columns])], [tensor("y", ["n", columns])], [constant("threshold", threshold)]
    )


def by_count():
    """y = x / the number of rows of the run, float32 [n, 4]."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], end=1),
        helper.make_node("Cast", ["size"], ["count"], to=FLOAT),
        helper.make_node("Div", ["x", "count"], ["y"]),
    ]
    return model(nodes, [tensor("x", ["n", 4])], [tensor("y", ["n", 4])])


def by_place():
    """y = x + the number of the row in the run, float32 [n, 4]."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], end=1),
        helper.make_node("Squeeze", ["size"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["floats"], to=FLOAT),
        helper.make_node("Unsqueeze", ["floats", "axes"], ["column"]),
        helper.make_node("Add", ["x", "column"], ["y"]),
    ]
    values = [constant(name, value, np.int64) for name, value in (("zero", 0), ("one", 1), ("axes", [1]))]
    return model(nodes, [tensor("x", ["n", 4])], [tensor("y", ["n", 4])], values)


def quantized():
    """y = x times weights, float32 [n, 64], in 8 bits whose scale is that of the largest x of the run."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["y"]),
    ]
    weights = constant("w", rng.integers(-50, 50, (64, 10)), np.int8)
    return model(nodes, [tensor("x", ["n", 64])], [tensor("y", ["n", 10])], [weights])


def labelled():
    """y as that of quantized(), and label = the largest of 10 y, rounded, + 1000: int64 [n]."""
    made = quantized()
    nodes = [
        helper.make_node("ReduceMax", ["y", "columns"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "ten"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["rounded"], to=INT64),
        helper.make_node("Add", ["rounded", "thousand"], ["label"]),
    ]
    values = [constant("columns", [1], np.int64), constant("ten", 10), constant("thousand", 1000, np.int64)]
    outputs = [tensor("label", ["n"], INT64), tensor("y", ["n", 10])]
    return model([*made.graph.node, *nodes], list(made.graph.input), outputs, [*made.graph.initializer, *values])


def noisy():
    """y = x + random numbers, doubled = 2 x: float32 [n, 4]."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
        helper.make_node("Add", ["x", "x"], ["doubled"]),
    ]
    return model(nodes, [tensor("x", ["n", 4])], [tensor("y", ["n", 4]), tensor("doubled", ["n", 4])])


def largest_of_many(top=1):
    """The indices of the largest of a thousand products of x, float32 [n, 64]: they flip where two are close."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("TopK", ["scores", "k"], ["best", "index"]),
    ]
    values = [constant("w", rng.standard_normal((64, 1000))), constant("k", [top], np.int64)]
    return model(nodes, [tensor("x", ["n", 64])], [tensor("index", ["n", top], INT64)], values)


def sensitive():
    """y = the small difference of two sums of x, float32 [n, 1000, 4]: which enlarges a change of the order.

    ONNX Runtime 1.31.1 adds up one row alone in another order than several.
    """
    nodes = [
        helper.make_node("Mul", ["x", "nearly_one"], ["scaled"]),
        helper.make_node("ReduceSum", ["x", "axes"], ["one"], keepdims=0),
        helper.make_node("ReduceSum", ["scaled", "axes"], ["other"], keepdims=0),
        helper.make_node("Sub", ["one", "other"], ["y"]),
    ]
    values = [constant("nearly_one", 1 - 3e-4), constant("axes", [1], np.int64)]
    return model(nodes, [tensor("x", ["n", 1000, 4])], [tensor("y", ["n", 4])], values)


def embedded(sizes):
    """y = the sum of the rows of tables that ids0, ids1, ... pick, int64 [n, seq] each; other ids are refused."""
    nodes, names = [], [f"ids{i}" for i in range(len(sizes))]
    for i, name in enumerate(names):
        nodes.append(helper.make_node("Gather", [f"table{i}", name], [f"row{i}"]))
    nodes.append(helper.make_node("Sum", [f"row{i}" for i in range(len(sizes))], ["y"]))
    tables = [constant(f"table{i}", np.arange(size * 3).reshape(size, 3)) for i, size in enumerate(sizes)]
    inputs = [tensor(name, ["n", "seq"], INT64) for name in names]
    return model(nodes, inputs, [tensor("y", ["n", "seq", 3])], tables)


def loud_id(threshold, size):
    """y = table[id], or 0 where no id of the run is above the threshold: int64 id [n], below size."""
    nodes = [
        helper.make_node("Gather", ["table", "id"], ["row"]),
        helper.make_node("ReduceMax", ["id"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "threshold"], ["above"]),
        helper.make_node("Cast", ["above"], ["one"], to=FLOAT),
        helper.make_node("Mul", ["row", "one"], ["y"]),
    ]
    values = [constant("table", np.arange(1, size + 1)), constant("threshold", threshold, np.int64)]
    return model(nodes, [tensor("id", ["n"], INT64)], [tensor("y", ["n"])], values)


def places_of_nonzeros():
    """y = the row and the column of each x that is not 0: float32 [n, 4] to int64 [k, 2]."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["found"], name="places"),
        helper.make_node("Transpose", ["found"], ["y"]),
    ]
    return model(nodes, [tensor("x", ["n", 4])], [tensor("y", ["k", 2], INT64)])


def compressed():
    """y = the x that are above 0, flat: float32 [n] to [k]."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["above"]),
        helper.make_node("Compress", ["x", "above"], ["y"], axis=0),
    ]
    return model(nodes, [tensor("x", ["n"])], [tensor("y", ["k"])], [constant("zero", 0)])
