"""Draws inputs from what their names and the model tell: masks, lengths, positions, and values within limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxserve.tensor import Array
from onnxserve_converters import roles
from onnxserve_converters.drawing import Drawer, Limits
from onnxserve_converters.inputs import InputSpec, numpy_dtype
from onnxserve_converters.roles import Axis

_PICTURE_AXES = 3

_Counts = npt.NDArray[np.int64]
_ByAxis = dict[tuple[Axis, Axis | None], _Counts]
"""Numbers of each row, by the axis they belong to and that of the rows."""

_EITHER_SIDE = {"end": "at the end", "start": "at the start", "both": "at the start or the end"}


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How rows are padded.

    Attributes:
        values: of each mask, its value at valid and at ignored places.
        side: "end", "start" or "both": rows of both kinds.
        tried: whether the model was tried: padded so, its answers at valid places are those of the row alone.
    """

    values: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    side: str = "end"
    tried: bool = False


def padding_by_name(inputs: Sequence[InputSpec]) -> Padding:
    """Return what the names of masks say: ones at valid places, or at ignored ones."""
    inverted = {mask.spec.name: roles.is_inverted(mask.spec) for mask in roles.masks(inputs)}
    return Padding(values={name: (0, 1) if zeros else (1, 0) for name, zeros in inverted.items()})


class InputDrawer:
    """Draws the inputs that something is known of; implements drawing.Drawer.

    Args:
        inputs: complete descriptions.
        own: the source's drawer; its draws come first.
        limits: of the values of inputs that are neither masks nor lengths.
        padding: how rows are padded.
        ordered: whether the longest rows come first, as torch's pack_padded_sequence wants them.
    """

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        own: Drawer | None,
        limits: Mapping[str, Limits],
        padding: Padding,
        ordered: bool,
    ) -> None:
        self._own, self._padding, self._ordered = own, padding, ordered
        self._masks, self._lengths = roles.masks(inputs), roles.lengths(inputs)
        self._positions = roles.positions(inputs)
        special = [part.spec for part in (*self._masks, *self._lengths)] + self._positions
        pictures = {spec.name: Limits(0, 255, "bytes of pictures") for spec in inputs if _is_picture(spec)}
        self._limits = limits
        self._limited = [
            (spec, (pictures | dict(limits))[spec.name])
            for spec in inputs
            if spec.name in pictures | dict(limits) and spec not in special
        ]
        self.notes: Mapping[str, str] = {**self._described(), **(own.notes if own is not None else {})}

    def draw(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
        """Return an array for each input of `notes`."""
        drawn: dict[str, Array] = {}
        for spec, limits in self._limited:
            drawn[spec.name] = _between(limits, spec, _shape(spec, sizes), rng)
        lengths, starts = self._drawn_lengths(sizes, rng)
        for mask in self._masks:
            length, start = lengths[mask.axis, mask.rows], starts[mask.axis, mask.rows]
            drawn[mask.spec.name] = self._mask(mask.spec, _shape(mask.spec, sizes), length, start)
        for part in self._lengths:
            drawn[part.spec.name] = lengths[part.axis, part.rows].astype(part.spec.dtype)
        for spec in self._positions:
            start = starts.get((spec.shape[-1], spec.shape[0]), np.zeros(1, np.int64))
            drawn[spec.name] = self._counted(spec, _shape(spec, sizes), start)
        return {**drawn, **(self._own.draw(sizes, rng) if self._own is not None else {})}

    def unread(self, feeds: Mapping[str, Array]) -> npt.NDArray[np.bool_] | None:
        """Return the places before each row's first valid one, by row and place, where rows are padded at the start."""
        if self._padding.side == "end":
            return None
        masks = [feeds[mask.spec.name] == self._padding.values[mask.spec.name][0] for mask in self._masks]
        flat = [mask for mask in masks if mask.ndim == 2]
        return np.cumsum(flat[0], axis=1) == 0 if flat else None

    def _described(self) -> dict[str, str]:
        notes = {spec.name: limits.why for spec, limits in self._limited}
        how = "; so padded, the model answers as for the row alone" if self._padding.tried else ""
        for mask in self._masks:
            valid, ignored = self._padding.values[mask.spec.name]
            places = f"{valid:g} at valid places, at least one a row, {ignored:g} at padded ones"
            notes[mask.spec.name] = f"{places}, {_EITHER_SIDE[self._padding.side]}{how}"
        notes |= {
            part.spec.name: f"lengths from 1 to the size of axis {part.axis}{', longest first' * self._ordered}"
            for part in self._lengths
        }
        return notes | {spec.name: "positions, counted from 0" for spec in self._positions}

    def _drawn_lengths(self, sizes: Mapping[str, int], rng: np.random.Generator) -> tuple[_ByAxis, _ByAxis]:
        """Return the number of valid places of each row and the first of them, by axis and rows."""
        lengths: _ByAxis = {}
        starts: _ByAxis = {}
        for part in (*self._lengths, *self._masks):
            size, rows = _size(part.axis, sizes), 1 if part.rows is None else _size(part.rows, sizes)
            if (part.axis, part.rows) in lengths:
                continue
            drawn = rng.integers(1, size, rows, endpoint=True)
            if part in self._lengths or rows > 1:  # a batch is padded to its longest row
                drawn[rng.integers(rows)] = size
            drawn = -np.sort(-drawn) if self._ordered else drawn
            at_start = {"end": np.zeros(rows, bool), "start": np.ones(rows, bool), "both": rng.random(rows) < 0.5}
            lengths[part.axis, part.rows] = drawn
            starts[part.axis, part.rows] = np.where(at_start[self._padding.side], size - drawn, 0)
        return lengths, starts

    def _mask(self, spec: InputSpec, shape: tuple[int, ...], length: _Counts, start: _Counts) -> Array:
        places = np.arange(shape[-1])
        rows = (places >= start[:, None]) & (places < (start + length)[:, None])
        valid, ignored = self._padding.values[spec.name]
        values = np.where(rows, valid, ignored).reshape(len(length), *(1,) * (len(shape) - 2), shape[-1])
        return np.broadcast_to(values, shape).astype(numpy_dtype(spec.dtype))

    def _counted(self, spec: InputSpec, shape: tuple[int, ...], start: _Counts) -> Array:
        counted = np.maximum(np.arange(shape[-1]) - start[:, None], 0) if len(shape) == 2 else np.arange(shape[-1])
        if (limits := self._limits.get(spec.name)) is not None:
            counted %= int(limits.high) + 1
        return np.broadcast_to(counted, shape).astype(spec.dtype)


def _is_picture(spec: InputSpec) -> bool:
    return spec.dtype == "uint8" and len(spec.shape) >= _PICTURE_AXES


def _size(axis: Axis, sizes: Mapping[str, int]) -> int:
    return sizes[axis] if isinstance(axis, str) else axis


def _shape(spec: InputSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(_size(axis, sizes) for axis in spec.shape)


def _between(limits: Limits, spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = numpy_dtype(spec.dtype)
    if dtype.kind in "iu":
        return rng.integers(int(limits.low), int(limits.high), shape, endpoint=True).astype(dtype)
    return np.asarray(rng.uniform(limits.low, limits.high, shape), dtype)
