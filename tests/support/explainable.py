"""Models whose explanations are known beforehand."""

import numpy as np
from onnx import TensorProto, helper

from support import zoo

FLOAT, DOUBLE, INT64, STRING = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING


def linear(coefficients, bias=0.0, dtype=FLOAT, metadata=None):
    """scores = x @ coefficients + bias: x [batch, features], scores [batch, classes]."""
    coefficients = np.asarray(coefficients)
    numpy_dtype = helper.tensor_dtype_to_np_dtype(dtype)
    nodes = [
        helper.make_node("MatMul", ["x", "coefficients"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["scores"]),
    ]
    features, classes = coefficients.shape
    return zoo.model(
        nodes,
        [zoo.tensor("x", ["batch", features], dtype)],
        [zoo.tensor("scores", ["batch", classes], dtype)],
        [zoo.constant("coefficients", coefficients, numpy_dtype), zoo.constant("bias", bias, numpy_dtype)],
        metadata,
    )


def columns():
    """price = 2 age + 5 where colour is red, float32: age float32, colour string, both [batch, 1]."""
    nodes = [
        helper.make_node("RegexFullMatch", ["colour"], ["is_red"], pattern="red"),
        helper.make_node("Cast", ["is_red"], ["red"], to=FLOAT),
        helper.make_node("Mul", ["red", "five"], ["for_colour"]),
        helper.make_node("Mul", ["age", "two"], ["for_age"]),
        helper.make_node("Add", ["for_age", "for_colour"], ["price"]),
    ]
    inputs = [zoo.tensor("age", ["batch", 1]), zoo.tensor("colour", ["batch", 1], STRING)]
    constants = [zoo.constant("two", 2), zoo.constant("five", 5)]
    return zoo.model(nodes, inputs, [zoo.tensor("price", ["batch", 1])], constants)


def patch(rows, columns, shape, axes):
    """brightness float32 [batch] = the mean of the image over rows and columns (first, last): image float32 `shape`.

    `axes` are the axes of rows and columns.
    """
    nodes = [
        helper.make_node("Slice", ["image", "first", "last", "axes"], ["patch"]),
        helper.make_node("ReduceMean", ["patch", "all"], ["brightness"], keepdims=0),
    ]
    constants = [
        zoo.constant("first", [rows[0], columns[0]], np.int64),
        zoo.constant("last", [rows[1], columns[1]], np.int64),
        zoo.constant("axes", axes, np.int64),
        zoo.constant("all", [*range(1, len(shape))], np.int64),
    ]
    return zoo.model(nodes, [zoo.tensor("image", shape)], [zoo.tensor("brightness", ["batch"])], constants)


def word(shape):
    """score float32 = 1 where the text, a string of `shape`, has the word excellent, else 0."""
    nodes = [
        helper.make_node("RegexFullMatch", ["text"], ["found"], pattern=r"(?s).*\bexcellent\b.*"),
        helper.make_node("Cast", ["found"], ["score"], to=FLOAT),
    ]
    return zoo.model(nodes, [zoo.tensor("text", shape, STRING)], [zoo.tensor("score", shape)])


def bag(worth):
    """score float32 [batch] = the sum of worth[id] times weight: ids int64, weight float32 [batch, length]."""
    nodes = [
        helper.make_node("Gather", ["worth", "ids"], ["each"]),
        helper.make_node("Mul", ["each", "weight"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "axes"], ["score"], keepdims=0),
    ]
    inputs = [zoo.tensor("ids", ["batch", "length"], INT64), zoo.tensor("weight", ["batch", "length"])]
    constants = [zoo.constant("worth", worth), zoo.constant("axes", [1], np.int64)]
    return zoo.model(nodes, inputs, [zoo.tensor("score", ["batch"])], constants)


def logarithm():
    """y = log x, float32 [batch, 2]: not a number below 0."""
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    return zoo.model(nodes, [zoo.tensor("x", ["batch", 2])], [zoo.tensor("y", ["batch", 2])])
