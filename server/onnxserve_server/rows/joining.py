"""What holds of a value that is one of two: of the branches of an If, or of the passes of a loop."""

from collections.abc import Callable
from dataclasses import replace

from onnxserve_server.rows.axes import Axis
from onnxserve_server.rows.sizes import symbol
from onnxserve_server.rows.values import Abstract, Poison, SequenceValue, Value
from onnxserve_server.spec import Rows


def join(one: Abstract, other: Abstract, label: Callable[[int], str]) -> Abstract:
    """Return what holds of either of two values; sizes that differ become symbols that `label` names, by axis."""
    if one == other:
        return one
    for rows in (Rows.MEET, Rows.UNKNOWN):
        for each in (one, other):
            if isinstance(each, Poison) and each.rows is rows:
                return replace(each, value=None)
    if isinstance(one, SequenceValue) and isinstance(other, SequenceValue):
        return join_sequences(one, other, label)
    if not (isinstance(one, Value) and isinstance(other, Value)):
        return Poison(Rows.UNKNOWN, "it is a tensor at one time and a sequence at another", "")
    return _join_tensors(one, other, label)


def _join_tensors(one: Value, other: Value, label: Callable[[int], str]) -> Abstract:
    by_count_ = one.by_count or other.by_count
    if one.row_axis is None and other.row_axis is None:
        if one.axes is None or other.axes is None or len(one.axes) != len(other.axes):
            return Value(axes=None, by_count=by_count_)
    elif one.axes is None or other.axes is None or len(one.axes) != len(other.axes):
        return Poison(Rows.UNKNOWN, "its number of axes differs from case to case", "")
    axes = []
    for k, (left, right) in enumerate(zip(one.axes, other.axes, strict=True)):
        if left != right and (left.rows or right.rows):
            return Poison(Rows.UNKNOWN, "it has rows in one case, and not in another", "")
        axes.append(left if left == right else Axis(symbol(label(k), fresh=True)))
    return Value(
        axes=tuple(axes),
        dtype=one.dtype if one.dtype == other.dtype else 0,
        by_count=by_count_,
        place=one.place if one.place == other.place else None,
        below=one.below if one.below == other.below else None,
        leads=one.leads and other.leads,
    )


def join_sequences(one: SequenceValue, other: SequenceValue, label: Callable[[int], str]) -> Abstract:
    """Return what holds of either of two sequences; the number of items is forgotten."""
    if one.each is None or other.each is None:
        return SequenceValue(None, one.each or other.each)
    each = join(one.each, other.each, label)
    return SequenceValue(None, each) if isinstance(each, Value) else each
