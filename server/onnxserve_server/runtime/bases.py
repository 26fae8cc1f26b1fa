"""Inputs that a model runs on, found by trying: from these the trials start (see trials.py).

A kernel that refuses an input does so before it can die of it, so the free axes need sizes that fit the weights and
each other. Where one size for all of them does not, sizes are drawn: for each axis, or for each position of an axis.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxserve_server.runtime.draws import Draws, Feeds, Hints, Values, is_integer
from onnxserve_server.spec import TensorSpec

_DRAWS = 300
_SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 128)
_MAX_BYTES = 16 << 20


class Base(NamedTuple):
    """What inputs are made of. Integers are mostly 1: most kernels do not run on a divisor or a length of 0."""

    draws: Draws
    values: Values

    def one(self) -> Feeds:
        """Return such inputs, of one row."""
        return self.draws.feed(1, self.values)

    def two(self, one: Feeds) -> Feeds:
        """Return such inputs of two rows, with the shared inputs of those of one row."""
        self.draws.keep_shared(one)
        return self.draws.feed(2, self.values)

    @property
    def is_small(self) -> bool:
        """Whether such inputs are small enough to be tried."""
        return self.draws.nbytes(2) <= _MAX_BYTES


def bases(inputs: Sequence[TensorSpec], hints: Hints) -> Iterator[Base]:
    """Yield what to try, the likeliest to run first; the same each time."""
    if hints.rows:
        yield Base(Draws(inputs, 1, hints), Values.SMALL)
    ranges = Hints(ranges=hints.ranges)
    has_free_axes = any(spec.has_free_axes for spec in inputs)
    for size in (8, 1) if has_free_axes else (1,):
        for values in (Values.ONE, Values.ZERO):
            yield Base(Draws(inputs, size, ranges), values)
    has_integers = any(map(is_integer, inputs))
    rng = np.random.default_rng(0)
    draws = Draws(inputs, 1, ranges)
    for number in range(_DRAWS if has_free_axes or has_integers else 0):
        if has_free_axes:
            draws = Draws(inputs, 1, ranges, _drawn_sizes(inputs, rng, by_position=number % 2 == 0))
        yield Base(draws, Values.POSITIVE if has_integers and number % 4 > 1 else Values.ONE)


def _drawn_sizes(
    inputs: Sequence[TensorSpec], rng: np.random.Generator, *, by_position: bool
) -> Mapping[tuple[str, int], int]:
    """Return a size for each free axis: the same for axes of one name, and by position for those without."""
    drawn: dict[object, int] = {}
    sizes = {}
    for spec in inputs:
        for axis, label in enumerate(spec.shape):
            if isinstance(label, str) and axis != spec.batch_axis:
                key = label or (axis if by_position else (spec.name, axis))
                sizes[spec.name, axis] = drawn.setdefault(key, int(rng.choice(_SIZES)))
    return sizes
