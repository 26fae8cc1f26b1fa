"""What realistic inputs are, for the server's check of rows: kept in report.json under "check"."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters.cases import Cases
from onnxserve_converters.drawing import Drawer
from onnxserve_converters.inputs import InputSpec, Ranges, batch_axis

_ROWS = 8
_MAX_ELEMENTS = 1 << 14  # of all rows together: a report is read by people, too


def describe_inputs(
    inputs: Sequence[InputSpec],
    sizes: Mapping[str, tuple[int, ...]],
    ranges: Ranges,
    samples: Mapping[str, Array] | None,
    drawer: Drawer | None = None,
) -> dict[str, Any]:
    """Return ranges and rows of realistic inputs, as JSON values; what is not known is left out.

    Args:
        inputs: complete descriptions.
        sizes: as for Cases.
        ranges: smallest and largest value, by input, as they were asked for; choices of strings are not kept.
        samples: the caller's arrays; of their rows the first eight are kept, if they have few elements.
        drawer: as for Cases; rows that it draws whole are kept likewise.
    """
    known = {name: limits for name, array in (samples or {}).items() if (limits := _limits(array))}
    numbers = [spec.name for spec in inputs if spec.dtype not in ("string", "bool")]
    known |= {name: list(limits) for name, limits in ranges.items() if name in numbers}
    described: dict[str, Any] = {"ranges": known} if known else {}
    realistic = {*ranges, *(drawer.notes if drawer is not None else ())}
    drawn = all(spec.words or spec.name in realistic for spec in inputs)
    if samples is None and drawn and not known.keys() >= {spec.name for spec in inputs}:
        samples = Cases(inputs, sizes, ranges, None, drawer).rows(_ROWS).feeds
    rows = {} if samples is None else _first_rows(inputs, samples)
    if rows and sum(array.size for array in rows.values()) <= _MAX_ELEMENTS:
        described["rows"] = {name: array.tolist() for name, array in rows.items()}
    return described


def _limits(array: Array) -> list[Any]:
    """Return the smallest and the largest value of finite numbers; [] for other arrays, and empty ones."""
    if array.dtype.kind not in "fiu" or not array.size or not np.isfinite(array).all():
        return []
    return [array.min().item(), array.max().item()]


def _first_rows(inputs: Sequence[InputSpec], samples: Mapping[str, Array]) -> dict[str, Array]:
    """Return the first rows of each input, or none if there are none, or JSON cannot express them, as NaN."""
    batch = batch_axis(inputs)
    rows = {}
    for spec in inputs:
        array = samples[spec.name]
        if array.dtype.kind not in "fiubO":
            return {}
        axis = spec.shape.index(batch) if batch in spec.shape else None
        first = array if axis is None else array.take(np.arange(min(_ROWS, array.shape[axis])), axis)
        if not first.size or (first.dtype.kind == "f" and not np.isfinite(first).all()):
            return {}
        rows[spec.name] = first
    return rows
