"""Sequences of tensors: made, taken apart, put together."""

from collections.abc import Sequence
from dataclasses import replace

from onnx import TensorProto

from onnxserve_server.rows.axes import Axis, Meet, Unclear
from onnxserve_server.rows.cutting_rules import concatenated, cut_up
from onnxserve_server.rows.elementwise_rules import tensors
from onnxserve_server.rows.joining import join
from onnxserve_server.rows.node import Node, place_in, sizes_value
from onnxserve_server.rows.registry import rule
from onnxserve_server.rows.values import Abstract, Known, SequenceValue, Value


def _sequence(value: Known | None) -> SequenceValue:
    if not isinstance(value, SequenceValue):
        raise Unclear("its input is not a sequence")
    return value


def _of(node: Node, items: Sequence[Value]) -> SequenceValue:
    if not items:
        return SequenceValue((), None)
    each: Abstract = items[0]
    for item in items[1:]:
        each = join(each, item, lambda axis: f"{node.key}:each.{axis}")
    return SequenceValue(tuple(items), each if isinstance(each, Value) else None)


def _any(sequence: SequenceValue) -> Value:
    if sequence.each is None:
        raise Unclear("the items of its sequence differ")
    return sequence.each


@rule("SequenceEmpty")
def sequence_empty(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """No items."""
    return [SequenceValue((), None)]


@rule("SequenceConstruct")
def sequence_construct(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """Some items."""
    return [_of(node, tensors(inputs))]


@rule("SequenceInsert")
def sequence_insert(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """One item more."""
    sequence, (item, *place) = _sequence(inputs[0]), tensors(inputs[1:])
    if any(not each.is_shared for each in place):
        raise Meet("the rows decide the place of an item")
    if sequence.items is not None and not place:
        return [_of(node, [*sequence.items, item])]
    joined = _of(node, [item] if sequence.each is None else [sequence.each, item])
    return [SequenceValue(None, _any(joined))]


@rule("SequenceAt")
def sequence_at(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """One item."""
    sequence, (place,) = _sequence(inputs[0]), tensors(inputs[1:])
    if place.row_axis is not None:
        raise Meet("a row decides which item is taken")
    number = place.contents[0] if place.contents else None
    if sequence.items is not None and isinstance(number, int) and -len(sequence.items) <= number < len(sequence.items):
        return [sequence.items[number]]
    if place.by_count:
        raise Meet("the number of rows decides which item is taken")
    each = _any(sequence)
    axes = [
        axis if axis.rows or isinstance(axis.outer, int) else Axis(node.fresh(k)) for k, axis in enumerate(each.known)
    ]
    return [each.bare(axes=tuple(axes))]  # where their axes are free, the items may have sizes of their own


@rule("SequenceLength")
def sequence_length(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """The number of items."""
    sequence = _sequence(inputs[0])
    if sequence.items is not None:
        return [replace(sizes_value([len(sequence.items)]), axes=())]
    if sequence.each is None or sequence.each.by_count:  # the pieces of something whose size may depend on it
        return [Value(axes=(), dtype=TensorProto.INT64, by_count=True)]
    return [replace(sizes_value([node.fresh("length")]), axes=())]


@rule("SplitToSequence")
def split_to_sequence(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """Pieces of a tensor along an axis."""
    value, *lengths = tensors(inputs)
    k = node.axis(value.rank, 0)
    if value.known[k].rows:
        raise Meet("it cuts the axis that counts rows")
    if any(not each.is_shared for each in lengths):
        raise Meet("the rows decide how it is cut")
    size, keep = value.sizes[k], bool(lengths) or bool(node.number("keepdims", 1))
    if lengths and lengths[0].rank:
        pieces = lengths[0].ints()
    elif isinstance(size, int) and (not lengths or isinstance(lengths[0].ints()[0], int)):
        step = int(lengths[0].ints()[0]) if lengths else 1  # type: ignore[arg-type]
        pieces = [min(step, size - at) for at in range(0, size, step)]
    else:
        piece = Axis(node.fresh("piece") if lengths else 1)  # the last one may be shorter
        axes = (*value.known[:k], *([piece] if keep else []), *value.known[k + 1 :])
        return [SequenceValue(None, value.bare(axes=axes))]
    made = cut_up(value, k, pieces)
    if not keep:
        made = [each.bare(axes=each.known[:k] + each.known[k + 1 :], contents=None) for each in made]
    return [_of(node, made)]


@rule("ConcatFromSequence")
def concat_from_sequence(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """All items one after the other, along an axis they have, or a new one."""
    sequence = _sequence(inputs[0])
    new = bool(node.number("new_axis", 0))
    if sequence.items:
        k = place_in(node.number("axis", 0), sequence.items[0].rank + new)
        items = [_with_axis(each, k) if new else each for each in sequence.items]
        return [concatenated(items, k)]
    each = _any(sequence)
    k = place_in(node.number("axis", 0), each.rank + new)
    item = _with_axis(each, k) if new else each
    if item.known[k].rows:
        raise Meet("it puts rows after other rows, along the axis that counts them")
    return [item.bare(axes=(*item.known[:k], Axis(node.fresh("all")), *item.known[k + 1 :]))]


def _with_axis(value: Value, k: int) -> Value:
    return value.rearranged((*value.known[:k], Axis(1), *value.known[k:]), value.contents)
