"""Sentences that show how a row depends on the other rows of its batch."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from onnxserve.tensor import Array
from onnxserve_server.runtime.draws import Feeds, Values
from onnxserve_server.runtime.verdict import Verdict, cure_by_axis
from onnxserve_server.spec import Rows, RowVerdict, TensorSpec

_MAX_PRINTED = 12  # elements of a batch


class CannotShareRuns(Exception):
    """The check has found that rows cannot share runs; `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def dependent(spec: TensorSpec, detail: str, tolerance: float = math.inf) -> CannotShareRuns:
    """Return what to raise when a row of an output depends on the others; `tolerance` is the one that allows it."""
    return _witness(f"a row of its output {spec.name} depends on the other rows of its batch: {detail}", tolerance)


def check_row_counts(specs: Iterable[TensorSpec], outputs: Feeds, rows: int) -> None:
    """Check that each output of a batch has a row for each of its rows; raises CannotShareRuns.

    Where it has not, a batch of several callers may have as many rows as they sent by chance, but not in their order.
    """
    for spec in specs:
        shape, axis = outputs[spec.name].shape, spec.batch_axis
        if axis is not None and shape[axis : axis + 1] != (rows,):
            cure = cure_by_axis(spec.name, shape.index(rows)) if rows in shape else ""
            raise _witness(f"with {rows} rows its output {spec.name} has the shape {list(shape)}{cure}")


def by_shape(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    """Return how the other rows change the shape of an output."""
    return f"with some rows its shape is {list(before)}, with others {list(after)}"


class Replaced(NamedTuple):
    """A row of an output in a batch, and in another whose other rows were replaced.

    Attributes:
        row: its number, the same in both.
        change: as row_changes() has it.
        values: what the other rows were replaced by.
        batches: the inputs, before and after.
        outputs: of the output, before and after.
    """

    row: int
    change: float
    values: Values
    batches: tuple[Feeds, Feeds]
    outputs: tuple[Array, Array]


def by_neighbours(spec: TensorSpec, found: Replaced) -> str:
    """Return how a row of an output changed when its neighbours were replaced."""
    row, (before, after) = found.row, found.outputs
    if max(before.size, *(sum(array.size for array in batch.values()) for batch in found.batches)) <= _MAX_PRINTED:
        first, second = (", ".join(f"{name}={_text(array)}" for name, array in each.items()) for each in found.batches)
        one, other = (_text(spec.cut(output, row, row + 1)) for output in (before, after))
        return f"row {row} is {one} in the batch {first}, and {other} in {second}"
    how = "others" if found.values in (Values.SMALL, Values.WIDE) else found.values.value
    rows = 1 if spec.batch_axis is None else before.shape[spec.batch_axis]
    return f"row {row} of {rows} changes by {found.change:.2g} of its largest value when its neighbours become {how}"


def by_place(rows: int, change: float, elsewhere: Array, here: Array, alone: bool) -> str:
    """Return how a row of an output, [1 row], in a batch is another than `elsewhere`: alone, or at another place."""
    where = "alone" if alone else "at another place of that batch"
    if here.size <= _MAX_PRINTED:
        return f"it is {_text(here)} in a batch of {rows} rows, and {_text(elsewhere)} {where}"
    return f"in a batch of {rows} rows it is {change:.2g} of its largest value away from what it is {where}"


def _witness(reason: str, tolerance: float = math.inf) -> CannotShareRuns:
    return CannotShareRuns(Verdict(False, reason, RowVerdict(Rows.DEPENDENT, reason), tolerance=tolerance))


def _text(array: Array) -> str:
    return _list(np.asarray(array).tolist())


def _list(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_list, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else repr(value)
