"""What is known of a value of the graph, for every run that the model can take part in.

A value has *rows* if one of its axes counts the rows of the run, or a product of them with other sizes, as after a
reshape: the elements that belong to row i then depend on row i of the inputs and on shared inputs, nothing else. A
value without such an axis is the same whatever the rows are.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np

from onnxserve_server.rows.axes import Axes, Axis, Unclear
from onnxserve_server.rows.sizes import Number, Size, by_count
from onnxserve_server.spec import Rows

Element: TypeAlias = int | float | bool | str | Size

_NOTHING = {"contents": None, "place": None, "below": None, "leads": False, "filler": None}

MAX_CONTENTS = 256
"""Most elements of a value whose contents are followed."""


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
    """A value whose rows may depend on each other, or of which nothing is known; and the node that it comes from.

    `value`: what is known of it nevertheless, for an operator that reads its shape alone.
    """

    rows: Rows
    reason: str
    node: str
    value: Value | None = None


@dataclass(frozen=True, slots=True)
class SequenceValue:
    """A sequence of tensors: its items, or None if their number is unknown; and what holds of each of them."""

    items: tuple[Value, ...] | None
    each: Value | None


Known: TypeAlias = Value | SequenceValue
Abstract: TypeAlias = Value | SequenceValue | Poison


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
