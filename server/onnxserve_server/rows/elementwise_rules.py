"""Operators that work element by element, with broadcasting; and arithmetic on the place of rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from onnx import TensorProto

from onnxserve_server.rows.axes import Axes, Axis, Meet, Unclear, check_axes, merge
from onnxserve_server.rows.contents import cast, compute
from onnxserve_server.rows.node import Node, is_real
from onnxserve_server.rows.registry import rule
from onnxserve_server.rows.sizes import Number, compare, is_at_least, is_natural
from onnxserve_server.rows.values import Known, Position, Value

_PLACED = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.UNDEFINED}
_LOGICAL = {
    *("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or", "Xor"),
    *("IsNaN", "IsInf", "RegexFullMatch"),
}


def tensors(inputs: Sequence[Known | None]) -> list[Value]:
    """Return the inputs that are given.

    Raises:
        Unclear: one is a sequence.
    """
    given = [each for each in inputs if each is not None]
    if not all(isinstance(each, Value) for each in given):
        raise Unclear("an input is a sequence")
    return given  # type: ignore[return-value]


def broadcast(shapes: Sequence[Axes]) -> Axes:
    """Return the axes of shapes that are broadcast as numpy does.

    Raises:
        Meet: rows lie along something else, or along two axes.
    """
    rank = max(map(len, shapes))
    made = [Axis(1)] * rank
    for axes in shapes:
        for k, axis in enumerate(axes, start=rank - len(axes)):
            made[k] = merge(made[k], axis)
    check_axes(made)
    return tuple(made)


def elementwise(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Each element depends on the elements at its own place."""
    values = tensors(inputs)
    axes = broadcast([value.known for value in values])
    typed = values[1] if node.op == "Where" else values[0]
    dtype = TensorProto.BOOL if node.op in _LOGICAL else typed.dtype
    computed = compute(node.op, values, dtype)
    if computed is not None:
        return [computed]
    made = Value(axes=axes, dtype=dtype, by_count=any(value.by_count for value in values))
    return [replace(made, **_indices(node, values))] * node.outputs


def _indices(node: Node, values: Sequence[Value]) -> dict[str, Any]:
    """Return what is known of the result as an index."""
    if len(values) != 2 or is_real(values[0].dtype):
        return {}
    one, other = values
    if node.op == "Add":
        return {"place": _moved(one, other) or _moved(other, one)}
    if node.op == "Mul":
        return {"place": _scaled(one, other) or _scaled(other, one)}
    if node.op == "Mod" and not node.number("fmod", 0):
        return {"below": _single(other)}
    return {}


def _moved(index: Value, by: Value) -> Position | None:
    """Return the place of index + by, where `by` is a small offset."""
    below = by.below if by.below is not None else _below_of_contents(by)
    if index.place is None or by.by_count or below is None:
        return None
    return Position(index.place.stride, index.place.below + below - 1)


def _scaled(index: Value, by: Value) -> Position | None:
    factor = _single(by)
    if index.place is None or factor is None or index.place.below != 1:
        return None
    return Position(index.place.stride * factor, 1)


def _single(value: Value) -> Number | None:
    """Return the one element of a value that is positive; None if it has others or is not followed."""
    if value.contents is None or len(value.contents) != 1 or value.by_count:
        return None
    element = value.ints()[0]
    return None if element == 0 or not is_natural(element) else element


def _below_of_contents(value: Value) -> int | None:
    numbers = [each for each in value.contents or () if isinstance(each, int) and each >= 0]
    return max(numbers) + 1 if numbers and len(numbers) == len(value.contents or ()) else None


@rule("Cast", "CastLike", "BitCast")
def cast_rule(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """As elementwise; whole numbers stay what they are.

    To uint32 a kernel casts four floats at a time, and the rest one by one, with other results for NaN and for what
    uint32 cannot hold. ONNX Runtime joins casts that follow each other: whole numbers made of floats count as floats.
    """
    value, *like = tensors(inputs)
    if node.op == "BitCast":
        return [value.bare(dtype=node.number("to", 0))]
    dtype = like[0].dtype if node.op == "CastLike" else node.number("to", 0)
    kept = _kept(value, dtype)
    if value.row_axis is not None and value.dtype in _PLACED:
        if dtype in (TensorProto.UINT32, TensorProto.UNDEFINED):
            raise Meet("floats beyond the range of uint32 become numbers that depend on their place among the rows")
        dtype = dtype if is_real(dtype) else TensorProto.UNDEFINED
    return [cast(value, dtype) or replace(value, dtype=dtype, contents=None, **kept)]


def _kept(value: Value, dtype: int) -> dict[str, Any]:
    """Return what stays known of indices; nothing if they become numbers of less precision, or come from such."""
    whole = {TensorProto.INT64, TensorProto.INT32}
    return {} if {value.dtype, dtype} <= whole else {"place": None, "below": None, "leads": False, "filler": None}


@rule("Clip")
def clip(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Element by element; its bounds are scalars."""
    value, *_ = tensors(inputs)
    limits = [each for each in inputs[1:] if isinstance(each, Value)]
    axes = broadcast([value.known, *(limit.known for limit in limits)])
    made = value.bare(axes=axes, by_count=any(each.by_count for each in (value, *limits)))
    low = inputs[1] if len(inputs) > 1 else None
    high = inputs[2] if len(inputs) > 2 else None
    if isinstance(low, Value) and isinstance(high, Value) and not is_real(value.dtype):
        return [replace(made, below=_within(low, high))]
    return [made]


def _within(low: Value, high: Value) -> Number | None:
    """Return the first number above the bounds of a Clip from 0; None if they are not known."""
    lower, upper = (each.contents[0] if each.contents and len(each.contents) == 1 else None for each in (low, high))
    if lower is None or upper is None or isinstance(lower, (float, str)) or isinstance(upper, (float, str)):
        return None
    if compare(lower, 0) not in (0, 1) or compare(upper, 0) == -1:
        return None
    return upper + 1 if is_natural(upper + 1) else None


def resolve(index: Value, axis: Axis) -> bool:
    """Whether indices along an axis that counts rows always select the row that they belong to."""
    place = index.place
    if place is None or not axis.rows or axis.outer != 1:
        return False
    return place.stride == axis.inner and (place.below == 1 or is_at_least(axis.inner, place.below))
