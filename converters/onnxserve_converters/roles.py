"""What inputs are for, by their names, dtypes and axes: masks, lengths and positions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from onnxserve_converters.inputs import InputSpec, batch_axis

Axis = int | str

_MASK = re.compile(r"mask|padding|(^|_)(pad|valid)(_|$)", re.IGNORECASE)
_INVERTED = re.compile(r"pad|ignore|invalid", re.IGNORECASE)
_LENGTHS = re.compile(r"(^|_)(lens?|lengths?|seq_?lens?)$", re.IGNORECASE)
_POSITIONS = re.compile(r"(^|_)(positions?|pos|position_ids|pos_ids)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Padded:
    """An input that says which places of an axis are valid: the last axis of a mask, another input's for lengths.

    Attributes:
        spec: the input.
        axis: a size, or the name of a free axis.
        rows: likewise of the rows, which have a length each; None where all have one.
    """

    spec: InputSpec
    axis: Axis
    rows: Axis | None


def masks(inputs: Sequence[InputSpec]) -> list[Padded]:
    """Return the masks: by name, or booleans that share a free axis and their rows with another input."""
    return [
        Padded(spec, spec.shape[-1], spec.shape[0] if spec.shape[0] != spec.shape[-1] else None)
        for spec in inputs
        if spec.dtype != "string" and len(spec.shape) > 1 and (_MASK.search(spec.name) or _is_by_axes(spec, inputs))
    ]


def lengths(inputs: Sequence[InputSpec]) -> list[Padded]:
    """Return the inputs of lengths, by name: an integer for each row, at most the size of another input's axis."""
    found = []
    for spec in inputs:
        if spec.dtype.startswith(("int", "uint")) and len(spec.shape) == 1 and _LENGTHS.search(spec.name):
            axis = _long_axis(spec.shape[0], [other for other in inputs if other is not spec])
            found += [Padded(spec, axis, spec.shape[0])] if axis is not None else []
    return found


def positions(inputs: Sequence[InputSpec]) -> list[InputSpec]:
    """Return the inputs of positions, by name: integers that count along their last axis."""
    return [spec for spec in inputs if spec.dtype.startswith("int") and spec.shape and _POSITIONS.search(spec.name)]


def is_inverted(spec: InputSpec) -> bool:
    """Whether a mask, by its name, has ones where values are ignored: PyTorch's padding masks of booleans have."""
    return bool(_INVERTED.search(spec.name)) and spec.dtype == "bool"


def _is_by_axes(spec: InputSpec, inputs: Sequence[InputSpec]) -> bool:
    others = [other.shape for other in inputs if other is not spec]
    along = isinstance(spec.shape[-1], str) and spec.shape[-1] != batch_axis(inputs)
    return spec.dtype == "bool" and along and any(set(spec.shape) <= set(shape) for shape in others)


def _long_axis(rows: Axis, others: Sequence[InputSpec]) -> Axis | None:
    """Return the first free axis beside the rows of an input that has these rows, or else the first other axis."""
    for spec in others:
        axes = [axis for axis in spec.shape if axis != rows]
        if rows in spec.shape and axes:
            return next((axis for axis in axes if isinstance(axis, str)), axes[0])
    return None
