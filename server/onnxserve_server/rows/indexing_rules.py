"""Operators that read and write by index."""

from collections.abc import Sequence

import numpy as np

from onnxserve_server.rows.axes import PURE, Axes, Axis, Meet, Unclear, check_axes, merge
from onnxserve_server.rows.elementwise_rules import resolve, tensors
from onnxserve_server.rows.node import Node, place_in
from onnxserve_server.rows.registry import rule
from onnxserve_server.rows.sizes import Number, by_count
from onnxserve_server.rows.values import Known, Value, contents_of


@rule("Gather")
def gather(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Slices of the data along an axis, in the places of the indices."""
    data, indices = tensors(inputs)
    k = node.axis(data.rank, 0)
    array, places = data.array(), indices.array()
    if array is not None and places is not None and all(isinstance(each, int) for each in places.reshape(-1)):
        return [contents_of(np.asarray(np.take(array, places.astype(int), k), object), data.dtype)]
    axes = data.known[:k] + indices.known + data.known[k + 1 :]
    check_axes(axes)
    if not data.known[k].rows:
        return [data.bare(axes=axes, by_count=data.by_count or indices.by_count, below=data.below)]
    if not resolve(indices, data.known[k]):
        raise Meet("it picks rows by an index along the axis that counts them")
    return [data.bare(axes=axes)]


@rule("GatherElements")
def gather_elements(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Elements along one axis, picked for each place of the others."""
    data, indices = tensors(inputs)
    k = node.axis(data.rank, 0)
    return [_beside(data, indices, k)]


def _beside(data: Value, indices: Value, k: int) -> Value:
    """Return elements of data at indices along axis k: the other axes lie beside each other."""
    if data.rank != indices.rank:
        raise Unclear("its inputs have different numbers of axes")
    if data.known[k].rows and not resolve(indices, data.known[k]):
        raise Meet("it picks elements by an index along the axis that counts rows")
    for j, (left, right) in enumerate(zip(data.known, indices.known, strict=True)):
        if j != k and left != right and (left.rows or right.rows):
            raise Meet("it combines rows with something else by their place")
    if data.row_axis is not None and indices.row_axis not in (None, data.row_axis):
        raise Meet("every row is combined with every other")
    placed = data.known[k].rows  # then the index tells the row, and nothing else depends on its place
    return data.bare(axes=indices.known, by_count=data.by_count or (indices.by_count and not placed))


@rule("GatherND")
def gather_nd(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Slices of the data at indices along its first axes, after those of the batch."""
    data, indices = tensors(inputs)
    batch = node.number("batch_dims", 0)
    rest, depth = _after_index(data, indices, batch)
    row = data.row_axis
    depends = data.by_count
    if row is not None and batch <= row < batch + depth:
        if not (indices.leads and row == batch and data.known[row].is_pure):
            raise Meet("it picks elements by an index along the axis that counts rows")
    else:
        depends = depends or indices.by_count
    shared = _common(data.known[:batch], indices.known[:batch])
    axes = shared + indices.known[batch:-1] + rest
    check_axes(axes)
    return [data.bare(axes=axes, by_count=depends)]


def _after_index(data: Value, indices: Value, batch: int) -> tuple[Axes, int]:
    """Return the axes of the data behind those that an index tells, and how many it tells."""
    depth = indices.sizes[-1]
    if not isinstance(depth, int):
        raise Unclear("the length of its indices is unknown")
    if indices.known[-1].rows:
        raise Meet("the rows of its indices are the parts of one index")
    if batch + depth > data.rank or batch >= indices.rank:
        raise Unclear("its indices are longer than its data has axes, or it has too many batch_dims")
    return data.known[batch + depth :], depth


def _common(one: Axes, other: Axes) -> Axes:
    return tuple(merge(left, right, broadcast=False) for left, right in zip(one, other, strict=True))


@rule("ScatterElements", "Scatter")
def scatter_elements(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The data, with updates at indices along one axis."""
    data, indices, updates = tensors(inputs)
    k = node.axis(data.rank, 0)
    given = [each for each in (data, indices, updates) if each.row_axis is not None]
    if any(each.row_axis == k for each in given):
        raise Meet("it writes by an index along the axis that counts rows")
    for j in range(data.rank):
        rows = [value.known[j] for value in (data, indices, updates)]
        if any(axis.rows for axis in rows) and len(set(rows)) > 1:
            raise Meet("it combines rows with something else by their place")
    return [data.bare(by_count=any(each.by_count for each in (data, indices, updates)))]


@rule("ScatterND")
def scatter_nd(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The data, with updates at indices along its first axes."""
    data, indices, updates = tensors(inputs)
    _, depth = _after_index(data, indices, 0)
    depends = any(each.by_count for each in (data, updates))
    row = data.row_axis
    if row is not None and row >= depth:  # whole rows are untouched by the index
        if indices.row_axis is not None:
            raise Meet("the indices of a row are used for all rows")
        place = indices.rank - 1 + row - depth
        if updates.row_axis not in (None, place):
            raise Meet("it combines rows with something else by their place")
        if updates.row_axis is not None and updates.known[place] != data.known[row]:
            raise Meet("it combines rows with something else by their place")
        if updates.row_axis is None and updates.sizes[place] != data.sizes[row]:
            raise Meet("it combines rows with something else by their place")
        return [data.bare(by_count=depends or indices.by_count)]
    if row == 0 and data.known[0].is_pure and indices.leads and indices.row_axis == updates.row_axis:
        return [data.bare(by_count=depends)]
    if row is None and indices.row_axis is None and updates.row_axis is None:
        return [data.bare(by_count=depends or indices.by_count)]
    raise Meet("it writes by an index along the axis that counts rows")


@rule("OneHot")
def one_hot(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A new axis with one element on."""
    indices, depth, values = tensors(inputs)
    if depth.row_axis is not None or values.row_axis is not None:
        raise Meet("its depth or its values are those of a row, and are used for all rows")
    size: Number = depth.ints()[0] if depth.contents is not None else node.fresh("depth")
    if by_count(size):
        raise Meet("the size of an axis depends on the number of rows")
    k = place_in(node.number("axis", -1), indices.rank + 1)
    axes = (*indices.known[:k], Axis(size), *indices.known[k:])
    return [Value(axes=axes, dtype=values.dtype, by_count=any(v.by_count for v in (indices, depth, values)))]


@rule("EyeLike")
def eye_like(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Ones on a diagonal."""
    (value,) = tensors(inputs)
    if value.row_axis is not None:
        raise Meet("its ones depend on the place of a row")
    return [value.bare(dtype=node.number("dtype", value.dtype))]


@rule("ReverseSequence")
def reverse_sequence(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The first elements along the time axis, in reverse; how many, for each batch."""
    value, lengths = tensors(inputs)
    batch, time = node.number("batch_axis", 1), node.number("time_axis", 0)
    if value.known[time].rows:
        raise Meet("it reverses the axis that counts rows")
    merge(value.known[batch], lengths.known[0], broadcast=False)
    if lengths.row_axis is not None and value.row_axis != batch:
        raise Meet("every row is combined with every other")
    return [value.bare(by_count=value.by_count or lengths.by_count)]


@rule("TensorScatter")
def tensor_scatter(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A cache, with an update from a place on, for each batch."""
    values = tensors(inputs)
    has_rows = any(each.row_axis is not None for each in values)
    if has_rows and any(each.known[:1] != (PURE,) for each in values):
        raise Meet("it combines rows with something else by their place")
    return [values[0].bare(by_count=any(each.by_count for each in values))]
