"""Rows made up from a model's specs, of one size for each of its free axes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from onnxserve.tensor import STORAGE, STRING, Array, DataType
from onnxserve_server.spec import TensorSpec

Feeds = dict[str, Array]

MAX_ELEMENTS, MAX_BYTES = 1 << 26, 256 << 20
"""Of all inputs of one feed together; for drawing, an element takes eight bytes."""

_NO_SIZES: Mapping[tuple[str, int], int] = {}
_MAX_POSITIVE = 4
_TRIES = 8  # for rows that differ from each other
_WORDS = ("", "a", "B", "7", "-1.5", "z", "some words", "Größe", "0123456789")


class Values(StrEnum):
    """The kind of values that rows are made of."""

    SMALL = "small"  # normal floats, integers 0 and 1
    ONE = "ones"  # as SMALL, but for integers
    POSITIVE = "positive"  # as SMALL, but integers from 1 to 4
    WIDE = "wide"  # floats and integers of several magnitudes, each row of its own
    ZERO = "zeros"
    HIGH = "the highest values"
    LOW = "the lowest values"


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What is known of realistic values, by input.

    Attributes:
        ranges: the smallest and the largest value.
        rows: arrays of realistic rows; empty, or one for each input that is not shared.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rows: Mapping[str, Array] = field(default_factory=dict)


class Draws:
    """Makes feeds for a model: all of them have the same row shapes.

    Args:
        inputs: the model's.
        size: of the axes that are free and not the batch axis.
        hints: realistic values. With `hints.rows` the free axes have the sizes of those.
        sizes: of some of these axes, by input and axis, in place of `size`.

    Attributes:
        rows: those of `hints`.
        bounds: the smallest and the largest integer, by input; at first 0 and 1 where `hints` have no range.
    """

    def __init__(
        self, inputs: Sequence[TensorSpec], size: int, hints: Hints, sizes: Mapping[tuple[str, int], int] = _NO_SIZES
    ) -> None:
        self.inputs = inputs
        self._size = size
        self._sizes = sizes
        self._shared: Feeds = {}
        self.rows = hints.rows
        self._ranges = hints.ranges
        self._rng = np.random.default_rng(0)
        ranges = {spec.name: hints.ranges.get(spec.name, (0, 1)) for spec in inputs if is_integer(spec)}
        self.bounds = {name: (int(low), int(high)) for name, (low, high) in ranges.items()}

    def nbytes(self, rows: int) -> int:
        """Return the bytes of a feed of so many rows, eight for each string."""
        return sum(self._count(spec, rows) * _itemsize(spec) for spec in self.inputs)

    def is_too_large(self, rows: int) -> bool:
        """Whether a feed of so many rows is not to be made."""
        elements = sum(self._count(spec, rows) for spec in self.inputs)
        return elements > MAX_ELEMENTS or self.nbytes(rows) > MAX_BYTES

    def keep_shared(self, feeds: Feeds) -> None:
        """Have further feeds the inputs without rows that this one has."""
        self._shared = {spec.name: feeds[spec.name] for spec in self.inputs if spec.batch_axis is None}

    def rows_of(self, feeds: Feeds) -> int:
        """Return the number of rows of a feed."""
        spec = next(spec for spec in self.inputs if spec.batch_axis is not None)
        return int(feeds[spec.name].shape[spec.batch_axis or 0])

    def feed(self, rows: int, values: Values) -> Feeds:
        """Return a feed whose rows differ from each other, as far as their types allow."""
        feeds = [self._feed(rows, values)]
        while rows > 1 and self._distinct(feeds[-1], rows) < rows and len(feeds) < _TRIES:
            feeds.append(self._feed(rows, values))
        return max(feeds, key=lambda each: self._distinct(each, rows))

    def with_neighbours(self, feeds: Feeds, kept: Sequence[int], values: Values) -> Feeds:
        """Return a feed with the `kept` rows of another and the rest replaced; shared inputs are the same."""
        replaced = self._feed(self.rows_of(feeds), values)
        for spec in self.inputs:
            if spec.batch_axis is None:
                replaced[spec.name] = feeds[spec.name]
            else:
                for row in kept:
                    spec.cut(replaced[spec.name], row, row + 1)[...] = spec.cut(feeds[spec.name], row, row + 1)
        return replaced

    def take(self, feeds: Feeds, rows: Sequence[int]) -> Feeds:
        """Return a feed of these rows of another, in this order."""
        return {
            spec.name: feeds[spec.name]
            if spec.batch_axis is None
            else np.ascontiguousarray(feeds[spec.name].take(list(rows), spec.batch_axis))
            for spec in self.inputs
        }

    def constant(self, integers: Mapping[str, int]) -> Feeds:
        """Return a feed of one row in which these integer inputs have one value everywhere."""
        feeds = self._feed(1, Values.SMALL)
        for name, value in integers.items():
            feeds[name] = np.full_like(feeds[name], value)
        return feeds

    def _distinct(self, feeds: Feeds, rows: int) -> int:
        keys = [
            tuple(
                repr(row.tolist()) if row.dtype.kind == "O" else row.tobytes()
                for spec in filter(_has_rows, self.inputs)
                for row in [spec.cut(feeds[spec.name], i, i + 1)]
            )
            for i in range(rows)
        ]
        return len(set(keys))

    def _feed(self, rows: int, values: Values) -> Feeds:
        if self.rows and values in (Values.SMALL, Values.WIDE):
            return self._sampled(rows)
        return {spec.name: self._array(spec, rows, values) for spec in self.inputs} | self._shared

    def _sampled(self, rows: int) -> Feeds:
        chosen: dict[int, npt.NDArray[np.intp]] = {}
        feeds = {}
        for spec in self.inputs:
            array = self.rows.get(spec.name)
            if array is None or spec.batch_axis is None:
                feeds[spec.name] = self._array(spec, rows, Values.SMALL) if array is None else array
                continue
            count = array.shape[spec.batch_axis]
            picks = chosen.setdefault(count, self._rng.choice(count, rows, replace=rows > count))
            feeds[spec.name] = array.take(picks, spec.batch_axis)
        return feeds

    def _shape(self, spec: TensorSpec, rows: int) -> tuple[int, ...]:
        made_up = [self._sizes.get((spec.name, axis), self._size) for axis in range(len(spec.shape))]
        return spec.filled(rows, self.rows[spec.name].shape if spec.name in self.rows else made_up)

    def _count(self, spec: TensorSpec, rows: int) -> int:
        return math.prod(self._shape(spec, rows))

    def _array(self, spec: TensorSpec, rows: int, values: Values) -> Array:
        shape = self._shape(spec, rows)
        if spec.data_type == STRING:
            return self._texts(shape, values)
        dtype = STORAGE[spec.data_type]
        if dtype.kind == "b":
            return self._booleans(shape, values)
        if is_integer(spec):
            return self._integers(spec, shape, values).astype(dtype)
        if dtype.kind == "f":
            return self._floats(spec, shape, values).astype(dtype)
        return self._foreign(spec.data_type, shape, values)

    def _texts(self, shape: tuple[int, ...], values: Values) -> Array:
        choices = {Values.WIDE: _WORDS, Values.ZERO: ("",), Values.HIGH: ("z" * 40,), Values.LOW: ("z" * 40,)}
        return self._rng.choice(np.array(choices.get(values, ("a", "b", "c")), dtype=object), shape)

    def _booleans(self, shape: tuple[int, ...], values: Values) -> Array:
        if values in (Values.ZERO, Values.LOW):
            return np.zeros(shape, np.bool_)
        if values in (Values.HIGH, Values.ONE):
            return np.ones(shape, np.bool_)
        return self._rng.integers(0, 2, shape).astype(np.bool_)

    def _integers(self, spec: TensorSpec, shape: tuple[int, ...], values: Values) -> Array:
        low, high = self.bounds[spec.name]
        match values:
            case Values.SMALL if spec.name not in self._ranges:
                return self._rng.integers(0, 2, shape)
            case Values.WIDE if spec.name not in self._ranges:
                reach = np.exp(self._by_row(spec, shape, 0, math.log(high + 1)))  # the largest value of each row
                sign = np.where(self._by_row(spec, shape, 0, 1) < (0.25 if low < 0 else 0), -1, 1)
                return np.clip(self._rng.random(shape) * reach, 0, high).astype(np.int64) * sign
            case Values.POSITIVE if spec.name not in self._ranges:
                return self._rng.integers(1, _MAX_POSITIVE, shape, endpoint=True)
            case Values.ONE if spec.name not in self._ranges:
                return np.ones(shape, np.int64)
            case Values.ONE:
                return np.full(shape, min(max(1, low), high))
            case Values.SMALL | Values.POSITIVE | Values.WIDE:
                return self._rng.integers(low, high, shape, STORAGE[spec.data_type], endpoint=True)
            case _:
                return np.full(shape, {Values.ZERO: min(max(0, low), high), Values.HIGH: high}.get(values, low))

    def _floats(self, spec: TensorSpec, shape: tuple[int, ...], values: Values) -> Array:
        if (limits := self._ranges.get(spec.name)) is not None:
            ends = {Values.ZERO: min(max(0.0, limits[0]), limits[1]), Values.HIGH: limits[1], Values.LOW: limits[0]}
            return np.full(shape, ends[values]) if values in ends else self._rng.uniform(*limits, shape)
        normal = self._rng.standard_normal(shape)
        match values:
            case Values.SMALL | Values.ONE | Values.POSITIVE:
                return normal
            case Values.WIDE:
                return np.asarray(normal * 10 ** self._by_row(spec, shape, -2, 2))
            case Values.ZERO:
                return np.zeros(shape)
        return np.abs(normal) * (1e3 if values is Values.HIGH else -1e3)

    def _by_row(self, spec: TensorSpec, shape: tuple[int, ...], low: float, high: float) -> npt.NDArray[np.float64]:
        """Return a number for each row, in a shape that is broadcast to that of the input.

        They are spread over the range: some rows are quiet, and show the influence of others that are loud.
        """
        sizes = [size if axis == spec.batch_axis else 1 for axis, size in enumerate(shape)]
        count = math.prod(sizes)
        shares = (self._rng.permutation(count) + self._rng.random(count)) / max(count, 1)
        return np.asarray(low + (high - low) * shares).reshape(sizes)

    def _foreign(self, data_type: DataType, shape: tuple[int, ...], values: Values) -> Array:
        """Return the bits of zeros and of positive numbers, for a type that numpy does not have."""
        half, one, large = (0x3F00, 0x3F80, 0x447A) if data_type == DataType.DATA_TYPE_BFLOAT16 else (0x30, 0x38, 0x60)
        bits = {Values.ZERO: [0], Values.HIGH: [large], Values.LOW: [0]}.get(values, [0, half, one])
        return self._rng.choice(np.array(bits, STORAGE[data_type]), shape)


def copied(feeds: Feeds) -> Feeds:
    """Return a feed with the same values in memory of its own."""
    return {name: array.copy() for name, array in feeds.items()}


def _has_rows(spec: TensorSpec) -> bool:
    """Whether an input has a batch axis that is free."""
    axis = spec.batch_axis
    return axis is not None and axis < len(spec.shape) and isinstance(spec.shape[axis], str)


def _itemsize(spec: TensorSpec) -> int:
    return 8 if spec.data_type == STRING else STORAGE[spec.data_type].itemsize


def is_integer(spec: TensorSpec) -> bool:
    """Whether an input has integers, or their type: booleans do not count."""
    return DataType.DATA_TYPE_BFLOAT16 > spec.data_type != STRING and STORAGE[spec.data_type].kind in "iu"
