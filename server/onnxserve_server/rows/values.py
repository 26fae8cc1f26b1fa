"""What is known of a value of the graph, for every run that the model can take part in.

A value has *rows* if one of its axes counts the rows of the run, or a product of them with other sizes, as after a
reshape: the elements that belong to row i then depend on row i of the inputs and on shared inputs, nothing else. A
value without such an axis is the same whatever the rows are.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np

from onnxserve_server.rows.sizes import ROWS, Number, Size, by_count, divide, is_natural, multiply, opaque, symbol
from onnxserve_server.spec import Rows

Element: TypeAlias = int | float | bool | str | Size

_NOTHING = {"contents": None, "place": None, "below": None, "leads": False, "filler": None}

MAX_CONTENTS = 256
"""Most elements of a value whose contents are followed."""


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


@dataclass(frozen=True, slots=True)
class Position:
    """Whole numbers that say which row they belong to: row * stride + something from 0 up to `below`, exclusive."""

    stride: Number
    below: Number


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """A tensor.

    Attributes:
        axes: one by one; None if its rank is unknown, which only a value without rows can be.
        dtype: the element type's number in ONNX; 0 if unknown.
        by_count: its elements depend on the number of rows, on a row's place among them, or on the length of others.
        contents: its elements in row-major order, if they are followed.
        place: each element tells its row.
        below: each element is from 0 up to this, exclusive.
        leads: the first element along the last axis is the number of the row.
        filler: a row's own elements come first, and behind them this text, as often as the longest row needs it.
    """

    axes: Axes | None
    dtype: int = 0
    by_count: bool = False
    contents: tuple[Element, ...] | None = None
    place: Position | None = None
    below: Number | None = None
    leads: bool = False
    filler: str | None = None

    @property
    def row_axis(self) -> int | None:
        """The axis that counts rows; None without."""
        return next((k for k, axis in enumerate(self.axes or ()) if axis.rows), None)

    @property
    def is_resolvable(self) -> bool:
        """Whether there are operators whose result does not depend on the number of rows although this does."""
        return self.place is not None or self.leads or self.filler is not None

    @property
    def is_shared(self) -> bool:
        """Whether it is the same whatever the rows are, and however many."""
        return not self.by_count and self.row_axis is None

    @property
    def rank(self) -> int:
        """Its number of axes.

        Raises:
            Unclear: it is not known.
        """
        return len(self.known)

    @property
    def known(self) -> Axes:
        """Its axes.

        Raises:
            Unclear: they are not known.
        """
        if self.axes is None:
            raise Unclear("the number of axes of an input is unknown")
        return self.axes

    @property
    def sizes(self) -> list[Number]:
        """The sizes of its axes."""
        return [axis.size for axis in self.known]

    def array(self) -> np.ndarray[Any, Any] | None:
        """Return its contents in its shape, as objects; None if they are not followed."""
        if self.contents is None:
            return None
        array = np.empty(len(self.contents), object)
        array[:] = self.contents
        return array.reshape(self.sizes)

    def ints(self) -> list[Number]:
        """Return its contents as numbers.

        Raises:
            Unclear: they are not followed.
        """
        if self.contents is None:
            raise Unclear("it takes sizes or axes from a value that the analysis does not follow")
        if any(isinstance(each, str) or (isinstance(each, float) and not each.is_integer()) for each in self.contents):
            raise Unclear("it takes sizes or axes from numbers that are not whole")
        return [each if isinstance(each, Size) else int(each) for each in self.contents]

    def bare(self, **changes: Any) -> "Value":
        """Return it without what is known of its elements alone, changed."""
        return replace(self, **(_NOTHING | changes))

    def rearranged(self, axes: Axes, contents: tuple[Element, ...] | None) -> "Value":
        """Return the same elements with other axes, or some of them repeated: what holds of each by itself stays."""
        return replace(self, axes=axes, contents=contents, leads=False, filler=None)


@dataclass(frozen=True, slots=True)
class Poison:
    """A value whose rows may depend on each other, or of which nothing is known; and the node that it comes from."""

    rows: Rows
    reason: str
    node: str


@dataclass(frozen=True, slots=True)
class SequenceValue:
    """A sequence of tensors: its items, or None if their number is unknown; and what holds of each of them."""

    items: tuple[Value, ...] | None
    each: Value | None


Known: TypeAlias = Value | SequenceValue
Abstract: TypeAlias = Value | SequenceValue | Poison


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


def contents_of(array: np.ndarray[Any, Any], dtype: int) -> Value:
    """Return the value of an array of elements; those of a larger one than MAX_CONTENTS are not followed."""
    elements = tuple(_element(each) for each in array.reshape(-1).tolist()) if array.size <= MAX_CONTENTS else None
    depends = by_count(*array.reshape(-1).tolist()) if array.dtype == object else False
    return Value(axes=tuple(map(Axis, array.shape)), dtype=dtype, contents=elements, by_count=depends)


def _element(each: Any) -> Element:
    return each if isinstance(each, (Size, bool, int, float, str)) else str(each)


def number_of(value: Value) -> int | None:
    """Return the number of elements if it is a plain number, else None."""
    if value.axes is None or not all(isinstance(size, int) for size in value.sizes):
        return None
    return prod(value.sizes)  # type: ignore[return-value]


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


def join(one: Abstract, other: Abstract, label: Callable[[int], str]) -> Abstract:
    """Return what holds of either of two values; sizes that differ become symbols that `label` names, by axis."""
    if one == other:
        return one
    for rows in (Rows.MEET, Rows.UNKNOWN):
        for each in (one, other):
            if isinstance(each, Poison) and each.rows is rows:
                return each
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
        axes.append(left if left == right else Axis(symbol(label(k))))
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


def total(axes: Iterable[Axis]) -> Number:
    """Return the product of the sizes of axes."""
    return multiply(*(axis.size for axis in axes))


def unknown_size(*operands: object, name: str) -> Size:
    """Return a size of which nothing is known but that it does not change."""
    return opaque(name, *operands, natural=all(is_natural(each) for each in operands if isinstance(each, (int, Size))))
