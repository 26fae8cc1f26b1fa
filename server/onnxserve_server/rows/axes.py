"""The axes of a value, and which of them counts rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnxserve_server.rows.sizes import ROWS, Number, by_count, divide, multiply, opaque


class Meet(Exception):
    """Rows meet at this node: the message says how."""


class Unclear(Exception):
    """The analysis cannot follow this node: the message says why."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its size, or, if it counts rows, outer x rows x inner, in this order."""

    outer: Number
    rows: bool = False
    inner: Number = 1

    @property
    def size(self) -> Number:
        """Its size as a formula."""
        return self.outer * ROWS * self.inner if self.rows else self.outer

    @property
    def is_pure(self) -> bool:
        """Whether it counts rows and nothing else."""
        return self.rows and self.outer == 1 and self.inner == 1


PURE = Axis(1, rows=True)
Axes: TypeAlias = tuple[Axis, ...]


def axes_of(sizes: Iterable[Number]) -> Axes:
    """Return axes of these sizes. One that is a multiple of the rows counts rows: the first of them outermost.

    Raises:
        Meet: two of them, or a sum with the rows in it.
    """
    axes = tuple(map(_axis, sizes))
    check_axes(axes)
    return axes


def _axis(size: Number) -> Axis:
    if not by_count(size):
        return Axis(size)
    inner = divide(size, ROWS)
    if inner is None or by_count(inner):
        raise Meet("the size of an axis depends on the number of rows")
    return Axis(1, rows=True, inner=inner)


def check_axes(axes: Sequence[Axis]) -> None:
    """Raise Meet if more than one axis counts rows."""
    if sum(axis.rows for axis in axes) > 1:
        raise Meet("every row is combined with every other")


def merge(one: Axis, other: Axis, *, broadcast: bool = True) -> Axis:
    """Return the axis of a result that two values lie along together, element by element.

    Raises:
        Meet: rows of the one lie along something else of the other.
    """
    if one == other:
        return one
    if broadcast and Axis(1) in (one, other):
        return other if one == Axis(1) else one
    if one.rows or other.rows:
        raise Meet("it combines rows with something else by their place, element by element")
    if isinstance(one.outer, int) and isinstance(other.outer, int):
        raise Unclear(f"an axis has {one.outer} elements in one input and {other.outer} in another")
    if isinstance(one.outer, int) or isinstance(other.outer, int):  # the other one is 1, or the same
        return one if isinstance(one.outer, int) else other
    if broadcast:
        both = tuple(sorted((one.outer, other.outer), key=repr))
        return Axis(opaque("broadcast", *both, natural=True, least=both))
    return one


def total(axes: Iterable[Axis]) -> Number:
    """Return the product of the sizes of axes."""
    return multiply(*(axis.size for axis in axes))
