"""Steps by which a graph grows: what computes with values, element by element or along their axes."""

import numpy as np

from support.growing import BOOL, FLOAT, INT64

UNARY = ("Relu", "Tanh", "Neg", "Abs", "Identity", "Sigmoid", "Floor", "Ceil", "Sign")
BINARY = ("Add", "Sub", "Mul", "Max", "Min", "Mean", "PRelu")
REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceSum", "ReduceMin", "ReduceProd")


def axes_of(g, since, *axes):
    """Inputs and attributes that tell axes: an input from opset `since` on."""
    return ([g.constant(np.array(axes))], {}) if g.opset >= since else ([], {"axes": list(axes)})


def number(g):
    """A whole number: a constant, or computed in the graph."""
    constant = g.rng.random() < 0.3
    return g.constant(np.int64(g.rng.integers(4))) if constant else g.pick(INT64, where=lambda v: v.rank == 0).name


def unary(g):
    g.add(g.some(*UNARY), [g.pick().name])


def binary(g):
    g.add(g.some(*BINARY), [g.pick().name, g.pick().name])


def with_constant(g):
    value = g.pick()
    shape = [1 if value.is_free(k) or g.rng.random() < 0.4 else size for k, size in enumerate(value.example.shape)]
    shape = shape[int(g.rng.integers(value.rank + 1)) :]
    g.add(g.some(*BINARY), [value.name, g.constant(g.rng.standard_normal(shape).astype(np.float32))])


def whole(g):
    g.add(g.some("Add", "Sub", "Mul", "Max", "Min"), [g.pick(INT64).name, g.pick(INT64).name])


def whole_with_constant(g):
    number = g.constant(np.int64(g.rng.integers(1, 5)))
    g.add(g.some("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"), [g.pick(INT64).name, number])


def clip(g):
    g.add("Clip", [g.pick(INT64).name, g.constant(np.int64(g.some(0, 0, 1))), number(g)])


def cast(g):
    g.add("Cast", [g.pick(g.some(FLOAT, INT64, BOOL)).name], to=g.some(FLOAT, INT64, BOOL))


def compare(g):
    kind = g.some(FLOAT, INT64)
    g.add(g.some("Greater", "Less", "Equal"), [g.pick(kind).name, g.pick(kind).name])


def where(g):
    kind = g.some(FLOAT, INT64)
    g.add("Where", [g.pick(BOOL).name, g.pick(kind).name, g.pick(kind).name])


def reduction(g):
    value, op = g.pick(g.some(FLOAT, INT64), 1), g.some(*REDUCTIONS)
    more, attributes = axes_of(g, 13 if op == "ReduceSum" else 18, g.axis(value))
    g.add(op, [value.name, *more], keepdims=g.some(0, 1), **attributes)


def along(g):
    value = g.pick(FLOAT, 1)
    op = g.some("Softmax", "LogSoftmax", "Hardmax", "ArgMax", "LpNormalization")
    g.add(op, [value.name], axis=g.axis(value), **({"keepdims": g.some(0, 1)} if op == "ArgMax" else {}))


def top(g):
    value = g.pick(FLOAT, 1)
    g.add("TopK", [value.name, g.constant(np.array([1]))], 2, axis=g.axis(value))


def cumulated(g):
    value = g.pick(g.some(FLOAT, INT64), 1)
    g.add("CumSum", [value.name, g.constant(np.int64(g.axis(value)))], exclusive=g.some(0, 1))


def transpose(g):
    value = g.pick(g.some(FLOAT, INT64), 2)
    g.add("Transpose", [value.name], perm=[int(k) for k in g.rng.permutation(value.rank)])


def matmul(g):
    value = g.pick(FLOAT, 2)
    if g.rng.random() < 0.5:
        order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
        g.add("MatMul", [value.name, g.add("Transpose", [value.name], perm=order)[0].name])
    else:
        g.add("MatMul", [value.name, g.pick(FLOAT, 1).name])


def gemm(g):
    one, other = (g.pick(where=lambda v: v.rank == 2).name for _ in range(2))
    g.add("Gemm", [one, other], transA=g.some(0, 1), transB=g.some(0, 1))


def pool(g):
    value, op = g.pick(FLOAT, 3), g.some("GlobalMaxPool", "MaxPool", "AveragePool")
    space = value.rank - 2
    options = {"kernel_shape": [2] * space, "pads": [1] * 2 * space, "strides": [g.some(1, 2)] * space}
    g.add(op, [value.name], **({} if op.startswith("Global") else options | {"ceil_mode": g.some(0, 1)}))


def norm(g):
    value = g.pick(FLOAT, 2)
    weights = [g.constant(np.ones(value.example.shape[1], np.float32)) for _ in range(4)]
    op = g.some("InstanceNormalization", "BatchNormalization", "LRN")
    more = {"LRN": [], "InstanceNormalization": weights[:2]}.get(op, weights)
    g.add(op, [value.name, *more], **({"size": 3} if op == "LRN" else {}))


def resize(g):
    value, scales = g.pick(FLOAT, 1), None
    scales = np.ones(value.rank, np.float32)
    scales[g.rng.integers(value.rank)] = g.some(2, 1.5)
    roi = "" if g.opset >= 13 else g.constant(np.float32([]))
    modes = {"mode": g.some("nearest", "linear"), "coordinate_transformation_mode": g.some("half_pixel", "asymmetric")}
    g.add("Resize", [value.name, roi, g.constant(scales)], **modes)


def quantize(g):
    quantized = g.add("DynamicQuantizeLinear", [g.pick().name], 3)
    g.add("DequantizeLinear", [each.name for each in quantized])


def selected(g):
    op = g.some("NonZero", "Unique", "EyeLike", "MeanVarianceNormalization")
    value = g.pick(FLOAT, 2)
    g.add(op, [value.name], **({"axes": [abs(g.axis(value)) % value.rank]} if op.startswith("Mean") else {}))


STEPS = (
    unary,
    binary,
    with_constant,
    whole,
    whole_with_constant,
    clip,
    cast,
    compare,
    where,
    reduction,
    along,
    top,
    cumulated,
    transpose,
    matmul,
    gemm,
    pool,
    norm,
    resize,
    quantize,
    selected,
)
