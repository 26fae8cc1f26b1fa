"""The arrays that a model is run on: random ones, or the caller's samples."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters.drawing import Drawer
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec, Ranges, batch_axis, free_axes, numpy_dtype

BATCH_SIZES = (1, 2, 7, 32)
_EXAMPLE_BATCH = 3
_TIMED_ROWS = (1, 16)
_MAX_WORDS = 8  # of a random text


@dataclass(frozen=True, slots=True)
class Case:
    """Sizes for every free axis, by name, and arrays that have them."""

    sizes: Mapping[str, int]
    feeds: Mapping[str, Array]

    def __str__(self) -> str:
        return ", ".join(f"{axis}={size}" for axis, size in self.sizes.items()) or "its fixed sizes"


class Cases:
    """The arrays that a model is run on: random ones, or rows of the caller's samples.

    Args:
        inputs: complete descriptions.
        sizes: sizes to try, two or more, by free axis; by default 1, 2, 7 and 32 for the batch axis and two for each
            other.
        ranges: smallest and largest random value, or the strings to choose from, by input; by default floats are
            normal and integers 0 or 1.
        samples: arrays by input, all with the same number of rows, used in place of random ones.
        drawer: draws the inputs that it knows, but for those with a range.

    Attributes:
        inputs: the descriptions.
        sizes: the sizes that are tried, by free axis.

    Raises:
        BadRequest: a size, a range or a sample belongs to an unknown axis or input, or does not fit it.
    """

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        sizes: Mapping[str, tuple[int, ...]],
        ranges: Ranges,
        samples: Mapping[str, Array] | None,
        drawer: Drawer | None = None,
    ) -> None:
        self.inputs = inputs
        self._drawer = drawer
        self._ranges = ranges
        self._samples = samples
        self._given_sizes = sizes
        self._rng = np.random.default_rng(0)
        axes = free_axes(inputs)
        _check_sizes(sizes, axes)
        sizes = _own_sizes(inputs) | dict(sizes)
        _check_ranges(ranges, inputs)
        if samples is not None:
            _check_samples(inputs, samples)
        self._batch = batch_axis(inputs)
        self.sizes = {axis: sizes.get(axis) or self._default_sizes(axis, i) for i, axis in enumerate(axes)}
        self._example_sizes: dict[str, int] = {}
        for i, axis in enumerate(axes):
            self._example_sizes[axis] = self._example_size(sizes.get(axis, ()), axis, i)

    def __iter__(self) -> Iterator[Case]:
        """Yield the cases to compare: each size of each axis, and all four pairs of two axes with two."""
        enough = 1 << len(self.sizes).bit_length()
        for turn in range(max([enough, *map(len, self.sizes.values())]) if self.sizes else 1):
            chosen = {}
            for i, (axis, options) in enumerate(self.sizes.items()):
                step = (turn & (i + 1)).bit_count() if len(options) == 2 else turn + i
                chosen[axis] = options[step % len(options)]
            yield self.at(chosen)

    def example(self) -> Case:
        """Return the case to export with: no free axis has size 1, which exporters fix, and no two have one size."""
        return self.at(self._example_sizes)

    def at(self, sizes: Mapping[str, int]) -> Case:
        """Return a case with a size for each free axis."""
        return Case(dict(sizes), self._feeds(sizes))

    def rows(self, count: int) -> Case:
        """Return a case of `count` rows, for timing; the other free axes have their largest size."""
        sizes = {axis: count if axis == self._batch else max(options) for axis, options in self.sizes.items()}
        return self.at(sizes)

    def row_counts(self) -> tuple[int, ...]:
        """Return the numbers of rows to time: 1 and 16, or the smallest and the largest that the caller gave.

        A model with a fixed number of rows is timed at that number alone.
        """
        if self._batch is None:
            shape = self.inputs[0].shape if self.inputs else ()
            return (int(shape[0]) if shape else 1,)
        rows = self._given_sizes.get(self._batch, _TIMED_ROWS)
        return tuple(dict.fromkeys((min(rows), max(rows))))

    def sampled(self) -> Iterator[dict[str, Array]]:
        """Yield all samples, at most as many rows at a time as the largest batch size; nothing without samples."""
        samples = self._samples
        if samples is None:
            return
        if self._batch is None:
            yield {spec.name: samples[spec.name] for spec in self.inputs}
            return
        rows, step = len(samples[self.inputs[0].name]), max(self.sizes[self._batch])
        for start in range(0, rows, step):
            some = np.arange(start, min(start + step, rows))
            yield {
                spec.name: samples[spec.name].take(some, spec.shape.index(self._batch))
                if self._batch in spec.shape
                else samples[spec.name]
                for spec in self.inputs
            }

    def _default_sizes(self, axis: str, i: int) -> tuple[int, ...]:
        if axis == self._batch:
            return BATCH_SIZES
        if (length := self._sampled(axis)) is not None:
            return (length + 1) // 2, length
        return 5 + 4 * i, 9 + 5 * i

    def _example_size(self, given: Sequence[int], axis: str, i: int) -> int:
        """Return the first of the caller's sizes that suits an export, where there is one."""
        taken = self._example_sizes.values()
        if given:
            return next((size for size in given if size > 1 and size not in taken), max(given))
        size = _EXAMPLE_BATCH if axis == self._batch else self._sampled(axis) or 6 + 11 * i
        while size in taken:
            size += 1
        return size

    def _sampled(self, axis: str) -> int | None:
        """Return an axis's size in the samples; None without samples, or where it is 1."""
        for spec in self.inputs:
            if self._samples is not None and axis in spec.shape and axis != self._batch:
                length = self._samples[spec.name].shape[spec.shape.index(axis)]
                return length if length > 1 else None
        return None

    def _feeds(self, sizes: Mapping[str, int]) -> dict[str, Array]:
        drawn: Mapping[str, Array] = {}
        if self._drawer is not None and self._samples is None:
            drawn = self._drawer.draw(sizes, self._rng)
        return {
            spec.name: drawn[spec.name]
            if spec.name in drawn and spec.name not in self._ranges
            else self._array(spec, sizes)
            for spec in self.inputs
        }

    def _array(self, spec: InputSpec, sizes: Mapping[str, int]) -> Array:
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape)
        if self._samples is not None:
            array = self._samples[spec.name]
            for axis, size in enumerate(shape):
                array = array.take(np.arange(size) % array.shape[axis], axis)
            return array
        given = self._ranges.get(spec.name)
        if isinstance(given, list):
            return self._rng.choice(np.array(given, dtype=object), shape)
        if spec.dtype == "string":
            return self._texts(spec.words, shape)
        dtype = numpy_dtype(spec.dtype)
        low, high = given or (0, 1)
        if dtype.kind == "f":
            values = self._rng.uniform(low, high, shape) if given else self._rng.normal(size=shape)
            return np.asarray(values, dtype)
        drawn = dtype if dtype.kind in "iub" else np.dtype(np.int64)
        return np.asarray(self._rng.integers(int(low), int(high), shape, drawn, endpoint=True), dtype)

    def _texts(self, words: Sequence[str], shape: tuple[int, ...]) -> Array:
        if not words:
            return self._rng.choice(np.array(["a", "b", "c"], dtype=object), shape)
        lengths = self._rng.integers(_MAX_WORDS, size=math.prod(shape), endpoint=True)
        return np.array([" ".join(self._rng.choice(words, n)) for n in lengths], dtype=object).reshape(shape)


def _own_sizes(inputs: Sequence[InputSpec]) -> dict[str, tuple[int, ...]]:
    """Return the sizes that the inputs themselves ask for, by free axis; the batch is not among them."""
    batch = batch_axis(inputs)
    return {
        axis: spec.lengths
        for spec in inputs
        for axis in spec.shape
        if spec.lengths and isinstance(axis, str) and axis != batch
    }


def _check_sizes(sizes: Mapping[str, Sequence[int]], axes: Sequence[str]) -> None:
    for axis, given in sizes.items():
        _check_known("size", axis, "free axis", axes)
        if len(set(given)) < 2 or min(given) < 1:
            raise BadRequest(
                f"size {axis}: expected two different sizes or more, each at least 1, not "
                f"{', '.join(map(str, given)) or 'none'}; to fix the axis, write its size into the input's description"
            )


def _check_ranges(ranges: Ranges, inputs: Sequence[InputSpec]) -> None:
    specs = {spec.name: spec for spec in inputs}
    for name, given in ranges.items():
        _check_known("range", name, "input", list(specs))
        spec = specs[name]
        if (spec.dtype == "string") != isinstance(given, list):
            expected = f"{name}=value|value" if spec.dtype == "string" else f"{name}=low:high"
            raise BadRequest(f"range {name}: does not fit the input, which is {spec}; expected {expected}")
        if not isinstance(given, list):
            _check_limits(spec, *given)
        elif not given or not all(isinstance(value, str) for value in given):
            raise BadRequest(f"range {name}: expected a list of strings to choose from, not {given}")


def _check_limits(spec: InputSpec, low: float, high: float) -> None:
    dtype = numpy_dtype(spec.dtype)
    kinds: Mapping[str, Any] = {"f": np.finfo, "i": np.iinfo, "u": np.iinfo}
    if dtype.kind != "b" and dtype.kind not in kinds:
        raise BadRequest(f"range {spec.name}: only numbers that numpy has can have a range, and the input is {spec}")
    least, largest = (0, 1) if dtype.kind == "b" else (kinds[dtype.kind](dtype).min, kinds[dtype.kind](dtype).max)
    if not least <= low <= high <= largest:
        raise BadRequest(
            f"range {spec.name}: {low:g}:{high:g} is not a valid range of {spec.dtype}; expected low:high, two finite "
            f"values of {spec.dtype} with low <= high"
        )


def _check_known(what: str, name: str, kind: str, known: Sequence[str]) -> None:
    if name not in known:
        raise BadRequest(f"{what} {name}: unknown {kind}; the model has {', '.join(known) or 'none'}")


def _check_samples(inputs: Sequence[InputSpec], samples: Mapping[str, Array]) -> None:
    sizes: dict[str, int] = {}
    for spec in inputs:
        array = samples[spec.name]
        fits = array.ndim == len(spec.shape) and all(
            axis == size if isinstance(axis, int) else sizes.setdefault(axis, size) == size
            for axis, size in zip(spec.shape, array.shape, strict=False)
        )
        if not fits or array.dtype != numpy_dtype(spec.dtype) or not array.size:
            raise BadRequest(
                f"sample {spec.name}: got {array.dtype}{list(array.shape)}, expected {spec}; axes of one name have one "
                "size, of at least 1"
            )
