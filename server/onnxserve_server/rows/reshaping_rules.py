"""Operators that keep the elements and their order, and change the axes."""

from collections.abc import Sequence
from dataclasses import replace

from onnxserve_server.rows.axes import Axes, Axis, Meet, Unclear, check_axes, total
from onnxserve_server.rows.elementwise_rules import tensors
from onnxserve_server.rows.node import Node, place_in
from onnxserve_server.rows.registry import rule
from onnxserve_server.rows.sizes import ROWS, Number, by_count, divide, multiply, opaque
from onnxserve_server.rows.values import Known, Value


def _same_elements(value: Value, axes: Axes) -> Value:
    """Return the value with other axes: what is known of its elements stays."""
    contents = value.contents if all(isinstance(axis.outer, int) and not axis.rows for axis in axes) else None
    filled = [axis for axis in axes if axis != Axis(1)] == [axis for axis in value.known if axis != Axis(1)]
    return replace(value.rearranged(axes, contents), filler=value.filler if filled else None)


@rule("Reshape")
def reshape(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The rows are found again where the product of the axes before or after them is the same."""
    value, shape = tensors(inputs)
    if value.is_shared and (value.axes is None or shape.contents is None):
        return [value.bare(axes=_of_rank(node, shape), by_count=shape.by_count)]
    wanted = list(shape.ints())
    for k, size in enumerate(wanted):
        if size == 0 and not node.number("allowzero", 0):
            if k >= value.rank:
                raise Unclear("it copies an axis that its input does not have")
            wanted[k] = value.sizes[k]
    return [_same_elements(value, regroup(value.known, wanted))]


def _of_rank(node: Node, shape: Value) -> Axes | None:
    """Return axes of unknown sizes, as many as a shape has elements; what it says of them, where it does."""
    (count,) = shape.sizes
    if not isinstance(count, int) or shape.by_count:
        return None
    given = shape.contents or (-1,) * count
    return tuple(Axis(size if isinstance(size, int) and size > 0 else node.fresh(k)) for k, size in enumerate(given))


def regroup(axes: Axes, wanted: Sequence[Number]) -> Axes:
    """Return the axes of a reshape to sizes, one of which may be -1.

    Raises:
        Meet: the rows are cut or merged with others.
        Unclear: it cannot be seen where they are.
    """
    sizes = _without_minus(axes, wanted)
    row = next((k for k, axis in enumerate(axes) if axis.rows), None)
    if row is None:
        if by_count(*sizes):
            raise Meet("it makes the number of rows the size of an axis of something else")
        return tuple(map(Axis, sizes))
    before = total(axes[:row]) * axes[row].outer
    after = axes[row].inner * total(axes[row + 1 :])
    target = next((k for k, size in enumerate(sizes) if by_count(size)), None)
    if target is None:
        raise Meet("it cuts the elements of all rows into pieces of fixed sizes")
    outer = divide(before, multiply(*sizes[:target]))
    inner = divide(after, multiply(*sizes[target + 1 :]))
    here = divide(sizes[target], ROWS)
    if here is None or by_count(here, *sizes[target + 1 :]):
        raise Unclear("the analysis cannot see where it puts the rows")
    outer = outer if outer is not None else _share(here, inner)
    inner = inner if inner is not None else _share(here, outer)
    if outer is None or inner is None or outer * inner != here:
        if isinstance(here, int) and isinstance(before, int) and isinstance(after, int):
            raise Meet("it merges the elements of a row with those of others")
        raise Unclear("the analysis cannot see where it puts the rows")
    made = [Axis(size) for size in sizes]
    made[target] = Axis(outer, rows=True, inner=inner)
    check_axes(made)
    return tuple(made)


def _share(here: Number, other: Number | None) -> Number | None:
    return None if other is None else divide(here, other)


def _without_minus(axes: Axes, wanted: Sequence[Number]) -> list[Number]:
    """Return the sizes with -1 replaced by what is left for it."""
    sizes = list(wanted)
    negative = [k for k, size in enumerate(sizes) if size == -1]
    if len(negative) > 1:
        raise Unclear("it has -1 twice")
    if negative:
        k = negative[0]
        rest = multiply(*sizes[:k], *sizes[k + 1 :])
        left = divide(total(axes), rest)
        sizes[k] = left if left is not None else _left_over(axes, sizes, k, rest)
    if any(isinstance(size, int) and size < 0 for size in sizes):
        raise Unclear("it has a negative size")
    return sizes


def _left_over(axes: Axes, sizes: Sequence[Number], k: int, rest: Number) -> Number:
    """Return the size of an axis that does not divide as a formula."""
    if by_count(*sizes[:k], *sizes[k + 1 :]):  # the rows are elsewhere: both sides lose them
        whole, part = divide(total(axes), ROWS), divide(rest, ROWS)
        if whole is not None and part is not None:
            return opaque("rest", whole, part, natural=True)
    row = next((j for j, axis in enumerate(axes) if axis.rows), None)
    if row is not None and total(axes[:row]) == multiply(*sizes[:k]) and total(axes[row:]) == ROWS:
        return ROWS  # a row has one element there, so the sizes behind are 1
    if by_count(total(axes)):
        raise Unclear("the analysis cannot see where it puts the rows")
    return opaque("rest", total(axes), rest, natural=True)


@rule("Flatten")
def flatten(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Two axes: the product of those before `axis`, and of those from it on."""
    (value,) = tensors(inputs)
    axis = node.number("axis", 1)
    axis += value.rank if axis < 0 else 0
    return [_same_elements(value, regroup(value.known, [total(value.known[:axis]), total(value.known[axis:])]))]


@rule("Identity")
def identity(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    """The same, tensors and sequences."""
    return [each for each in inputs if each is not None]


@rule("Transpose")
def transpose(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Axes in another order."""
    (value,) = tensors(inputs)
    order = node.numbers("perm") or list(range(value.rank))[::-1]
    if sorted(order) != list(range(value.rank)):
        raise Unclear("its perm does not fit its input")
    array = value.array()
    contents = None if array is None else tuple(array.transpose(order).reshape(-1).tolist())
    return [value.rearranged(tuple(value.known[k] for k in order), contents)]


@rule("Unsqueeze")
def unsqueeze(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """New axes of size 1."""
    value, *given = tensors(inputs)
    added = node.numbers("axes") or given[0].ints()
    rank = value.rank + len(added)
    places = {place_in(axis, rank) for axis in added}
    rest = iter(value.known)
    return [_same_elements(value, tuple(Axis(1) if k in places else next(rest) for k in range(rank)))]


@rule("Squeeze")
def squeeze(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Axes of size 1 go."""
    value, *given = tensors(inputs)
    gone = node.numbers("axes") or (given[0].ints() if given else [])
    if not gone:  # left out, or an empty list
        if any(not isinstance(size, int) for size in value.sizes):
            raise Unclear("it removes axes of size 1, and the size of one is free")
        gone = [k for k, size in enumerate(value.sizes) if size == 1]
    places = {place_in(axis, value.rank) for axis in gone}
    if any(value.known[k].rows for k in places):
        raise Meet("it removes the axis that counts rows, which it can with one row alone")
    return [_same_elements(value, tuple(axis for k, axis in enumerate(value.known) if k not in places))]
