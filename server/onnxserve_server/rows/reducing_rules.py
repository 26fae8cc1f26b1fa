"""Operators that bring the elements along some axes together: reductions, and those that keep the shape."""

from collections.abc import Sequence
from dataclasses import replace

from onnx import TensorProto

from onnxserve_server.rows.axes import Axes, Axis, Meet
from onnxserve_server.rows.elementwise_rules import broadcast, tensors
from onnxserve_server.rows.node import Node, place_in, sizes_value
from onnxserve_server.rows.registry import MICROSOFT, rule
from onnxserve_server.rows.sizes import Number, add, multiply
from onnxserve_server.rows.table import LAST_AXIS, REDUCTIONS, SINCE_13_ALONG
from onnxserve_server.rows.values import Known, Value

_MIXES = "it mixes the elements along the axis that counts rows"


def refuse_rows(value: Value, places: Sequence[int]) -> None:
    """Raise Meet if the rows lie along one of some axes."""
    if value.row_axis in places:
        raise Meet(_MIXES)


@rule(*REDUCTIONS)
def reduce(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """One element for all along some axes."""
    value, *given = tensors(inputs)
    chosen: list[Number] = [*node.numbers("axes")] or (given[0].ints() if given else [])
    if not chosen and node.number("noop_with_empty_axes", 0):
        return [value.bare()]
    if value.axes is None:
        return [Value(axes=None if chosen or node.number("keepdims", 1) else (), by_count=value.by_count)]
    places = {place_in(axis, value.rank) for axis in chosen} or set(range(value.rank))
    refuse_rows(value, sorted(places))
    axes = _without(value.known, places, keep=bool(node.number("keepdims", 1)))
    return [_computed(node, value, places, axes) or value.bare(axes=axes)]


def _without(axes: Axes, places: set[int], *, keep: bool) -> Axes:
    kept = tuple(Axis(1) if k in places else axis for k, axis in enumerate(axes))
    return kept if keep else tuple(axis for k, axis in enumerate(kept) if k not in places)


def _computed(node: Node, value: Value, places: set[int], axes: Axes) -> Value | None:
    """Return the product or sum of a vector of sizes, as graphs compute them."""
    if node.op not in ("ReduceProd", "ReduceSum") or value.rank != 1 or not (places and value.contents):
        return None
    if any(isinstance(each, (float, str)) for each in value.contents):
        return None
    result = multiply(*value.ints()) if node.op == "ReduceProd" else add(*value.ints())
    return replace(sizes_value([result]), axes=axes, dtype=value.dtype)


@rule("ArgMax", "ArgMin")
def arg(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Where the largest element lies along an axis."""
    (value,) = tensors(inputs)
    k = node.axis(value.rank, 0)
    refuse_rows(value, [k])
    axes = _without(value.known, {k}, keep=bool(node.number("keepdims", 1)))
    return [value.bare(axes=axes, dtype=TensorProto.INT64, below=value.sizes[k])]


@rule("TopK")
def top_k(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The largest elements along an axis, and where they lie."""
    value, *given = tensors(inputs)
    k = node.axis(value.rank, -1)
    refuse_rows(value, [k])
    count: Number = node.number("k", 0) or node.fresh("k")
    if given:
        if not given[0].is_shared:
            raise Meet("the number of elements depends on the rows")
        count = given[0].ints()[0] if given[0].contents is not None else count
    depends = any(each.by_count for each in (value, *given))
    axes = (*value.known[:k], Axis(count), *value.known[k + 1 :])
    best = value.bare(axes=axes, by_count=depends)
    return [best, replace(best, dtype=TensorProto.INT64, below=value.sizes[k])][: node.outputs]


@rule(*SINCE_13_ALONG)
def along(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The same shape; the elements along an axis meet. Before version 13, along that axis and all behind it."""
    (value,) = tensors(inputs)
    first = node.axis(value.rank, -1 if node.version >= 13 else 1)
    refuse_rows(value, [first] if node.version >= 13 else range(first, value.rank))
    return [value.bare()]


@rule(*LAST_AXIS)
def along_one(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The same shape; the elements along an axis meet, which is an attribute, or the second input."""
    value, *given = tensors(inputs)
    chosen = place_in(given[0].ints()[0], value.rank) if given else node.axis(value.rank, LAST_AXIS[node.op])
    refuse_rows(value, [chosen])
    return [value.bare()]


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_normalization(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The same shape; the elements along an axis and all behind it meet. Weights are the same for all rows."""
    value, *weights = tensors(inputs)
    first = node.axis(value.rank, -1)
    refuse_rows(value, range(first, value.rank))
    if any(weight.row_axis is not None for weight in weights):
        raise Meet("its weights are those of a row, and are used for all rows")
    broadcast([value.known, *(weight.known for weight in weights)])
    depends = any(each.by_count for each in (value, *weights))
    statistics = value.bare(axes=_without(value.known, set(range(first, value.rank)), keep=True), by_count=depends)
    return [value.bare(by_count=depends), *[statistics] * (node.outputs - 1)]


@rule("MeanVarianceNormalization")
def mean_variance(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The same shape; the elements along some axes meet."""
    (value,) = tensors(inputs)
    refuse_rows(value, [place_in(axis, value.rank) for axis in node.numbers("axes", [0, 2, 3])])
    return [value.bare()]


@rule("BatchNormalization")
def batch_normalization(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Each channel by its own weights: with fixed statistics element by element, in training mode with its own."""
    value, *weights = tensors(inputs)
    channel = min(1, value.rank - 1)
    depends = any(each.by_count for each in (value, *weights))
    if value.row_axis == channel:  # a channel for each row, as Keras normalizes layers on TensorFlow
        if any(weight.known != (value.known[channel],) for weight in weights):
            raise Meet("it has weights of their own for each row, by its place")
        statistics = Value(axes=(value.known[channel],), dtype=value.dtype, by_count=depends)
        return [value.bare(by_count=depends), *[statistics] * (node.outputs - 1)]
    if node.number("training_mode", 0) or sum(node.given) > 1 or (node.version < 7 and not node.number("is_test", 0)):
        raise Meet("in training mode it takes mean and variance over all rows")
    if any(weight.row_axis is not None for weight in weights):
        raise Meet("its weights are those of a row, and are used for all rows")
    return [value.bare(by_count=depends)] * node.outputs


@rule("DynamicQuantizeLinear")
def dynamic_quantize(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """One scale for all elements."""
    (value,) = tensors(inputs)
    if value.row_axis is not None:
        raise Meet("its scale is computed from the smallest and the largest element of all rows")
    scalar = Value(axes=(), by_count=value.by_count)
    return [value.bare(dtype=TensorProto.UINT8), scalar, scalar]


@rule("QuantizeLinear", "DequantizeLinear")
@rule("QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)
def quantize(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Element by element, by scales that are the same for all rows: one, one along an axis, or one for each block."""
    value, *scales = tensors(inputs)
    if any(scale.row_axis is not None for scale in scales):
        raise Meet("its scale is that of a row, and is used for all rows")
    several = [scale for scale in scales if scale.axes is None or (scale.rank and scale.sizes != [1])]
    if several and value.row_axis is not None:
        blocks = any(scale.axes is None or scale.rank > 1 for scale in several)
        if blocks or value.row_axis == node.axis(value.rank, 1):
            raise Meet("it has a scale of its own for each row, by its place")
    return [value.bare(dtype=0, by_count=any(each.by_count for each in (value, *scales)))]
