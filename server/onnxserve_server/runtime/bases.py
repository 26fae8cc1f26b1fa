"""Inputs that a model runs on, found by trying: from these the trials start (see trials.py).

A kernel that refuses an input does so before it can die of it, so the free axes need sizes that fit the weights and
each other. Where one size for all of them does not, sizes are drawn: for each axis, or for each position of an axis.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxserve.tensor import STORAGE, STRING, Array, DataType
from onnxserve_server.runtime.samples import bits_of_one
from onnxserve_server.spec import TensorSpec

_DRAWS = 300
_SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 128)
_MAX_BYTES = 16 << 20


class Base(NamedTuple):
    """What inputs are made of.

    Attributes:
        sizes: of each free axis, by input and axis.
        integer: the value of all integers: 1, for most kernels do not run on a divisor or a length of 0; or 0.
    """

    sizes: Mapping[tuple[str, int], int]
    integer: int

    def feed(self, inputs: Sequence[TensorSpec], rows: int) -> dict[str, Array]:
        """Return such inputs, of so many rows."""
        rng = np.random.default_rng(0)
        return {spec.name: _array(spec, self._shape(spec, rows), self.integer, rng) for spec in inputs}

    def fits(self, inputs: Sequence[TensorSpec], rows: int) -> bool:
        """Whether such inputs are small enough to be tried."""
        items = (STORAGE[spec.data_type].itemsize if spec.data_type in STORAGE else 8 for spec in inputs)
        sizes = (math.prod(self._shape(spec, rows)) for spec in inputs)
        return sum(item * size for item, size in zip(items, sizes, strict=True)) <= _MAX_BYTES

    def _shape(self, spec: TensorSpec, rows: int) -> tuple[int, ...]:
        return spec.filled(rows, [self.sizes.get((spec.name, axis), 1) for axis in range(len(spec.shape))])


def bases(inputs: Sequence[TensorSpec]) -> Iterator[Base]:
    """Yield what to try, the likeliest to run first; the same each time."""
    axes = [
        (spec.name, axis, size)
        for spec in inputs
        for axis, size in enumerate(spec.shape)
        if isinstance(size, str) and axis != spec.batch_axis
    ]
    for size in (8, 1) if axes else (1,):
        for integer in (1, 0):
            yield Base({(name, axis): size for name, axis, _ in axes}, integer)
    rng = np.random.default_rng(0)
    for number in range(_DRAWS if axes else 0):
        by_position = number % 2 == 0
        drawn: dict[object, int] = {}
        sizes = {}
        for name, axis, label in axes:
            key = label or (axis if by_position else (name, axis))
            sizes[name, axis] = drawn.setdefault(key, int(rng.choice(_SIZES)))
        yield Base(sizes, 1)


def _array(spec: TensorSpec, shape: tuple[int, ...], integer: int, rng: np.random.Generator) -> Array:
    if spec.data_type == STRING:
        return np.full(shape, "a", object)
    dtype = STORAGE[spec.data_type]
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    is_foreign = spec.data_type >= DataType.DATA_TYPE_BFLOAT16
    return np.full(shape, bits_of_one(spec.data_type) if is_foreign else integer, dtype)
