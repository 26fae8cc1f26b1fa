"""Operators that take parts of tensors and put parts together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxserve_server.rows.axes import Axes, Axis, Meet, Unclear, check_axes, merge
from onnxserve_server.rows.elementwise_rules import tensors
from onnxserve_server.rows.node import Node, place_in
from onnxserve_server.rows.registry import rule
from onnxserve_server.rows.sizes import Number, by_count, compare, divide, multiply, opaque
from onnxserve_server.rows.values import Known, Value, contents_of

_FAR = 10**9  # the end of an axis, as jax2tf writes it; others write 2**31 - 1 or more, and no batch has so many rows


def _with_size(axes: Axes, k: int, size: Number) -> Axes:
    if axes[k].rows:
        raise Meet("it changes the axis that counts rows")
    if by_count(size):
        raise Meet("the size of an axis depends on the number of rows")
    return (*axes[:k], Axis(size), *axes[k + 1 :])


@rule("Slice")
def slice_rule(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A range along some axes; all of the rows, or they meet."""
    value, *_ = tensors(inputs)
    if node.version < 10:
        parts: list[Sequence[Number]] = [node.numbers("starts"), node.numbers("ends"), node.numbers("axes"), ()]
    else:
        parts = [each.ints() if isinstance(each, Value) else () for each in (*inputs[1:], None, None)]
    starts, ends, axes, steps, *_ = parts
    steps = steps or [1] * len(starts)
    places = [place_in(axis, value.rank) for axis in axes or range(len(starts))]
    cuts = {
        k: (start, end, step)
        for k, start, end, step in zip(places, starts, ends, steps, strict=True)
        if not _is_all(value.sizes[k], start, end, step)
    }
    return [_cut(value, cuts) if cuts else value]


def _cut(value: Value, cuts: Mapping[int, tuple[Number, Number, Number]]) -> Value:
    """Return what start, end and step leave, by axis."""
    axes, array = value.known, value.array()
    for k, cut in cuts.items():
        axes = _with_size(axes, k, _length(axes[k].size, *cut))
    numbers = [number for cut in cuts.values() for number in cut]
    if array is not None and all(isinstance(number, int) for number in numbers):
        return contents_of(array[tuple(_sliced(cuts.get(k)) for k in range(value.rank))], value.dtype)
    return value.bare(axes=axes, place=value.place, below=value.below, by_count=value.by_count or by_count(*numbers))


def _sliced(cut: Any) -> slice:
    """Return a slice as numpy means it: ONNX writes -infinity for an end before the first element."""
    if cut is None:
        return slice(None)
    start, end, step = cut
    return slice(start, None if step < 0 and end < -_FAR else end, step)


def _is_all(size: Number, start: Number, end: Number, step: Number) -> bool:
    return step == 1 and start == 0 and (end == size or (isinstance(end, int) and end >= _FAR))


def _length(size: Number, start: Number, end: Number, step: Number) -> Number:
    """Return the number of elements of a slice; opaque where it cannot be told."""
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        return len(range(*slice(start, end if step > 0 or end > -_FAR else None, step).indices(size)))
    unknown = opaque("slice", size, start, end, step, natural=True)
    if step != 1:
        return unknown
    first = size + start if compare(start, 0) == -1 else start
    last = size if isinstance(end, int) and end >= _FAR else size + end if compare(end, 0) == -1 else end
    inside = compare(first, 0) in (0, 1) and compare(last, first) in (0, 1) and compare(size, last) in (0, 1)
    return last - first if inside else unknown


@rule("Split")
def split(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Pieces along an axis."""
    value, *given = tensors(inputs)
    k = node.axis(value.rank, 0)
    size = value.sizes[k]
    lengths: list[Number] = [*node.numbers("split")] or (given[0].ints() if given else [])
    if not lengths:
        even = divide(size, node.outputs)
        lengths = [even] * node.outputs if even is not None else _uneven(node, size)
    return cut_up(value, k, lengths)


def cut_up(value: Value, k: int, lengths: Sequence[Number]) -> list[Value]:
    """Return the pieces of a tensor along axis k.

    Raises:
        Meet: the rows lie along that axis.
    """
    array, made = value.array(), []
    at: Number = 0
    for length in lengths:
        if length == value.sizes[k]:
            made.append(value)
        elif array is not None and isinstance(length, int) and isinstance(at, int):
            made.append(contents_of(np.take(array, range(at, at + length), k), value.dtype))
        else:
            made.append(value.bare(axes=_with_size(value.known, k, length), place=value.place, below=value.below))
        at = at + length
    return made


def _uneven(node: Node, size: Number) -> list[Number]:
    if isinstance(size, int):
        part = -(-size // node.outputs)
        return [max(0, min(part, size - part * k)) for k in range(node.outputs)]
    return [opaque("piece", size, node.outputs, k == node.outputs - 1, natural=True) for k in range(node.outputs)]


@rule("Concat")
def concat(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """One after the other along an axis."""
    values = tensors(inputs)
    if any(value.axes is None for value in values):
        raise Unclear("the number of axes of an input is unknown")
    k = node.axis(values[0].rank, 1 if node.version < 4 else -1)
    return [concatenated(values, k)]


def concatenated(values: Sequence[Value], k: int) -> Value:
    """Return tensors one after the other along axis k.

    Raises:
        Meet: the rows lie along that axis.
    """
    if len(values) == 1:
        return values[0]
    if any(value.known[k].rows for value in values):
        raise Meet("it puts rows after other rows, along the axis that counts them")
    sides = [value.known[:k] + value.known[k + 1 :] for value in values]
    rest = sides[0]
    for other in sides[1:]:
        rest = tuple(merge(left, right, broadcast=False) for left, right in zip(rest, other, strict=True))
    check_axes(rest)
    size = sum((value.sizes[k] for value in values[1:]), values[0].sizes[k])
    arrays = [value.array() for value in values]
    if all(array is not None for array in arrays):
        return contents_of(np.concatenate(arrays, k), values[0].dtype)  # type: ignore[arg-type]
    first = values[0]
    return Value(
        axes=(*rest[:k], Axis(size), *rest[k:]),
        dtype=first.dtype,
        by_count=any(value.by_count for value in values),
        leads=k == len(rest) and _is_row_number(first) and not any(value.by_count for value in values[1:]),
    )


def _is_row_number(value: Value) -> bool:
    """Whether a value is one column that holds the number of the row."""
    return value.place is not None and value.place.stride == 1 and value.place.below == 1 and value.sizes[-1] == 1


@rule("Pad")
def pad(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """More along some axes; along that of the rows, none."""
    value, *more = tensors(inputs)
    pads = inputs[1] if len(inputs) > 1 else None
    given: list[Number] = pads.ints() if isinstance(pads, Value) else [*node.numbers("pads")]
    chosen = inputs[3] if len(inputs) > 3 else None
    places = [place_in(k, value.rank) for k in (chosen.ints() if isinstance(chosen, Value) else range(value.rank))]
    made = value.known
    for j, k in enumerate(places):
        before, after = given[j], given[j + len(places)]
        if (before, after) != (0, 0):
            made = _with_size(made, k, made[k].size + before + after)
    filler = inputs[2] if len(inputs) > 2 else None
    if isinstance(filler, Value) and filler.row_axis is not None:
        raise Meet("its filling holds rows, and is used for all rows")
    return [value.bare(axes=made, by_count=any(each.by_count for each in (value, *more)))]


@rule("DepthToSpace", "SpaceToDepth")
def blocks(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Between channels and pixels, in blocks."""
    (value,) = tensors(inputs)
    if value.rank != 4:
        raise Unclear("its input does not have 4 axes")
    block = node.number("blocksize", 1)
    n, *rest = value.known
    if any(axis.rows for axis in rest):
        raise Meet("it mixes the elements along an axis that counts rows")
    channels, height, width = (axis.size for axis in rest)
    if node.op == "DepthToSpace":
        sizes = [_part(channels, block * block), height * block, width * block]
    else:
        sizes = [multiply(channels, block, block), _part(height, block), _part(width, block)]
    return [value.bare(axes=(n, *map(Axis, sizes)))]


def _part(size: Number, by: int) -> Number:
    exact = divide(size, by)
    return exact if exact is not None else opaque("part", size, by, natural=True)


@rule("Trilu")
def trilu(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A triangle of each matrix."""
    value, *more = tensors(inputs)
    if value.row_axis is not None and value.row_axis >= value.rank - 2:
        raise Meet("it keeps an element by its place along the axis that counts rows")
    if any(each.row_axis is not None for each in more):
        raise Meet("its diagonal is that of a row, and is used for all rows")
    return [replace(value.bare(), by_count=any(each.by_count for each in (value, *more)))]
