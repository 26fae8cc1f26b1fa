"""Operators of com.microsoft whose rules need more than the notation."""

from collections.abc import Sequence
from dataclasses import replace

from onnxserve_server.rows import notation
from onnxserve_server.rows.axes import Axis, Meet, Unclear
from onnxserve_server.rows.cutting_rules import concatenated
from onnxserve_server.rows.elementwise_rules import broadcast, tensors
from onnxserve_server.rows.node import Node, place_in
from onnxserve_server.rows.product_rules import product
from onnxserve_server.rows.reducing_rules import refuse_rows
from onnxserve_server.rows.registry import MICROSOFT, rule
from onnxserve_server.rows.table import CACHED_ATTENTION
from onnxserve_server.rows.values import Known, Value


def _shared(values: Sequence[Known | None]) -> None:
    if any(isinstance(each, Value) and each.row_axis is not None for each in values):
        raise Meet("an input that is used for all rows holds rows")


def _by_count(inputs: Sequence[Known | None]) -> bool:
    return any(each.by_count for each in tensors(inputs))


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A sum of two, normalized along the last axis."""
    value, skip, *weights = tensors(inputs)
    _shared(weights)
    if skip.row_axis is not None and value.row_axis is None:
        raise Meet("it adds the rows of its second input to a first one without rows, whose size the result has")
    axes = broadcast([value.known, skip.known])
    made = value.bare(axes=axes, by_count=_by_count(inputs))
    refuse_rows(made, [len(axes) - 1])
    statistics = made.bare(axes=(*axes[:-1], Axis(1)))
    return [made, statistics, statistics, made][: node.outputs]


@rule("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def quantized_arithmetic(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Element by element, with scales that are the same for all rows."""
    one, other = tensors([inputs[0], inputs[3]])
    _shared([*inputs[1:3], *inputs[4:]])
    return [one.bare(axes=broadcast([one.known, other.known]), by_count=_by_count(inputs))]


@rule("QLinearWhere", domain=MICROSOFT)
def quantized_where(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """One of two, element by element."""
    condition, one, other = tensors([inputs[0], inputs[1], inputs[4]])
    _shared([*inputs[2:4], *inputs[5:]])
    axes = broadcast([condition.known, one.known, other.known])
    return [one.bare(axes=axes, by_count=_by_count(inputs))]


@rule("QLinearConcat", domain=MICROSOFT)
def quantized_concat(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """One after the other along an axis."""
    values = [each.bare() for each in tensors(inputs[2::3])]
    _shared([*inputs[:2], *inputs[3::3], *inputs[4::3]])
    return [replace(concatenated(values, node.axis(values[0].rank, 0)), by_count=_by_count(inputs))]


@rule("QLinearSoftmax", domain=MICROSOFT)
def quantized_softmax(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The elements along an axis meet; of an opset before 13, those behind it, too."""
    value, *scales = tensors(inputs)
    _shared(scales)
    k = node.axis(value.rank, -1)
    refuse_rows(value, [k] if node.number("opset", 13) >= 13 else range(k, value.rank))
    return [value.bare(by_count=_by_count(inputs))]


@rule("QLinearReduceMean", domain=MICROSOFT)
def quantized_mean(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """One element for all along some axes."""
    value, *scales = tensors(inputs)
    _shared(scales)
    places = {place_in(axis, value.rank) for axis in node.numbers("axes") or range(value.rank)}
    refuse_rows(value, sorted(places))
    kept = [Axis(1) if k in places else axis for k, axis in enumerate(value.known)]
    if not node.number("keepdims", 1):
        kept = [axis for k, axis in enumerate(kept) if k not in places]
    return [value.bare(axes=tuple(kept), by_count=_by_count(inputs))]


@rule("QGemm", domain=MICROSOFT)
def quantized_gemm(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A product of two matrices that may be transposed."""
    one, other = tensors([inputs[0], inputs[3]])
    _shared([*inputs[1:3], *inputs[4:]])
    left = one.known[::-1] if node.number("transA", 0) else one.known
    right = other.known[::-1] if node.number("transB", 0) else other.known
    bias = inputs[6] if len(inputs) > 6 else None
    axes = broadcast([product(left, right), *([bias.known] if isinstance(bias, Value) else [])])
    return [one.bare(axes=axes, by_count=_by_count(inputs))]


@rule("RotaryEmbedding", domain=MICROSOFT)
def rotary(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Each row is turned by the angles at its positions, which are one offset, or given for each row."""
    offset = isinstance(inputs[1], Value) and inputs[1].rank == 1
    return notation.apply(f"b*, {'_' if offset else 'bS'}, _, _ -> b*", node, inputs)


@rule(*CACHED_ATTENTION, domain=MICROSOFT)
def cached_attention(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Each row attends to its own keys. With a cache that is read and not given back, kernels read those of others."""
    text, place = CACHED_ATTENTION[node.op]
    if inputs[place : place + 1] not in ([], [None]) and not (node.outputs >= 3 and all(node.given[1:3])):
        raise Meet("it reads a cache and does not give it back: ONNX Runtime then takes keys of other rows")
    return notation.apply(text, node, inputs)


@rule("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A sum of two, and its softmax along an axis and all behind it."""
    value, bias = tensors(inputs)
    axes = broadcast([value.known, bias.known])
    made = value.bare(axes=axes, by_count=_by_count(inputs))
    refuse_rows(made, range(node.axis(len(axes), 1), len(axes)))
    return [made]


@rule("GatherBlockQuantized", domain=MICROSOFT)
def gather_block_quantized(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Lines of a quantized table."""
    table, _, scale, *more = tensors(inputs)
    _shared([table, scale, *more])
    if node.number("gather_axis", 0) or table.rank != 2:
        raise Unclear("it gathers along another axis than the first of two")
    (made,) = notation.apply("@, ... -> @E", node, [inputs[1]])
    return [replace(made, dtype=scale.dtype, by_count=_by_count(inputs))]
