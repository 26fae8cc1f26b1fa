"""Operators that read the sizes of axes, and those that make as much as a computed size says."""

from collections.abc import Sequence
from dataclasses import replace

from onnx import TensorProto

from onnxserve_server.rows.axes import Axis, Meet, Unclear, axes_of, check_axes
from onnxserve_server.rows.elementwise_rules import broadcast, tensors
from onnxserve_server.rows.node import Node, from_tensor, sizes_value
from onnxserve_server.rows.registry import rule
from onnxserve_server.rows.sizes import ROWS, Number, Size, by_count, compare, divide, is_natural, multiply, opaque
from onnxserve_server.rows.values import MAX_CONTENTS, Known, Position, Value, number_of


@rule("Expand")
def expand(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Copies along axes of size 1."""
    value, shape = tensors(inputs)
    wanted = shape.ints()
    if any(isinstance(size, int) and size < 0 for size in wanted):
        raise Unclear("it has a negative size")
    target = [
        value.known[k - len(wanted)] if _is_axis(value, k - len(wanted), size) else None
        for k, size in enumerate(wanted)
    ]
    made = [axis or axes_of([size])[0] for axis, size in zip(target, wanted, strict=True)]
    axes = broadcast([value.known, tuple(made)])
    same = value.contents is not None and number_of(Value(axes=axes)) == len(value.contents)
    return [value.rearranged(axes, value.contents if same else None)]


def _is_axis(value: Value, k: int, size: Number) -> bool:
    """Whether axis k of a value, from the end, has a size already."""
    return -k <= value.rank and value.known[k].size == size


@rule("Tile")
def tile(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The whole of it again and again, along each axis."""
    value, repeats = tensors(inputs)
    made = []
    for axis, times in zip(value.known, repeats.ints(), strict=True):
        if axis.rows:
            if by_count(times):
                raise Meet("it repeats the rows as often as there are rows")
            made.append(Axis(times * axis.outer, rows=True, inner=axis.inner))
        else:
            made += axes_of([times * axis.outer]) if axis.outer == 1 or not by_count(times) else _repeated(axis, times)
    check_axes(made)
    kept = value if made == list(value.known) else value.bare(place=value.place, below=value.below)
    return [replace(kept, axes=tuple(made))]


def _repeated(axis: Axis, times: Number) -> list[Axis]:
    copies = divide(times, ROWS)
    if copies is None or by_count(copies):
        raise Meet("the size of an axis depends on the number of rows")
    return [Axis(1, rows=True, inner=copies * axis.outer)]


@rule("Shape")
def shape_of(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The sizes of the axes."""
    (value,) = tensors(inputs)
    end = node.number("end", value.rank)
    return [sizes_value(_readable(value)[slice(node.number("start", 0), end)])]


@rule("Size")
def size_of(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The number of elements."""
    (value,) = tensors(inputs)
    return [replace(sizes_value([multiply(*_readable(value))]), axes=())]


def _readable(value: Value) -> list[Number]:
    """Return the sizes of a value as a graph reads them: fresh ones may depend on what its elements depend on."""
    if not value.by_count:
        return value.sizes
    return [opaque("read", size, ROWS) if isinstance(size, Size) and size.fresh else size for size in value.sizes]


@rule("ConstantOfShape")
def constant_of_shape(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The same element everywhere."""
    (shape,) = tensors(inputs)
    axes = axes_of(shape.ints())
    tensor = node.attributes["value"].t if "value" in node.attributes else TensorProto(data_type=TensorProto.FLOAT)
    made = Value(axes=axes, dtype=tensor.data_type)
    return [_filled(made, tensor)]


def _filled(value: Value, tensor: TensorProto) -> Value:
    count = number_of(value)
    element = from_tensor(tensor).contents if tensor.dims else (0,)
    if count is None or not element or count > MAX_CONTENTS:
        return value
    return replace(value, contents=tuple(element) * count)


@rule("Range")
def range_of(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Numbers with a step; up to the number of rows they are the places of the rows."""
    start, limit, step = (value.ints()[0] for value in tensors(inputs))
    dtype = tensors(inputs)[0].dtype
    if by_count(start, limit, step):
        inner = divide(limit, ROWS)
        if start != 0 or step != 1 or inner is None or by_count(inner):
            raise Meet("its length depends on the number of rows")
        return [Value(axes=(Axis(1, True, inner),), dtype=dtype, by_count=True, place=Position(inner, inner))]
    if isinstance(start, int) and isinstance(limit, int) and isinstance(step, int):
        numbers = range(start, limit, step)
        if len(numbers) <= MAX_CONTENTS:
            return [replace(sizes_value(numbers), dtype=dtype)]
        return [Value(axes=(Axis(len(numbers)),), dtype=dtype)]
    if start == 0 and step == 1 and is_natural(limit):
        return [Value(axes=(Axis(limit),), dtype=dtype, below=limit)]
    known = step == 1 and compare(limit, start) in (0, 1)
    return [
        Value(axes=(Axis(limit - start if known else opaque("range", start, limit, step, natural=True)),), dtype=dtype)
    ]
