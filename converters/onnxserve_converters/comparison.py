"""Compares one output of the ONNX file with the framework's."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxserve.tensor import Array

_ABSOLUTE_SHARE = 1e-2  # of the tolerance: an error below it is rounding, however small the output is
_MAX_SHOWN = 8  # rows in a message

Places = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Parity:
    """The difference between one output of one case and the reference.

    Attributes:
        sizes: of the free axes, by name.
        error: the largest absolute difference; for dtypes other than floats the number of elements that differ.
        relative: the error as a share of the reference's largest magnitude.
        allowed: the largest error that passes.
        rows: the numbers of the rows that differ by more than is allowed; none where the output has no row axis.
        count: the number of rows; 0 where the output has no row axis.
        unread: the largest error at places that nobody reads, where that is not allowed and therefore not compared.
    """

    sizes: Mapping[str, int]
    output: str
    error: float
    relative: float
    allowed: float
    rows: tuple[int, ...] = ()
    count: int = 0
    unread: float | None = None

    @property
    def passes(self) -> bool:
        """Whether the error is allowed."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        where = ""
        if self.rows:
            shown = ", ".join(map(str, self.rows[:_MAX_SHOWN])) + ", ..." * (len(self.rows) > _MAX_SHOWN)
            where = f", in {len(self.rows)} of {self.count} rows ({shown})"
        if not math.isfinite(self.error):
            return f"NaN or infinite values are in other places than in the framework's output{where}"
        return f"error {self.error:.2g}, allowed {self.allowed:.2g}{where}"

    def to_dict(self) -> dict[str, Any]:
        """Return the row for a report; an error of None is infinite, which JSON cannot express."""
        return {
            "sizes": dict(self.sizes),
            "output": self.output,
            "error": _finite(self.error),
            "relative": _finite(self.relative),
            "allowed": self.allowed,
            "passes": self.passes,
            **({} if self.passes else {"rows": list(self.rows)}),
            **({} if self.unread is None else {"unread": _finite(self.unread)}),
        }


def compare(
    name: str,
    sizes: Mapping[str, int],
    got: Array,
    wanted: Array,
    *,
    tolerances: Mapping[str, float],
    max_error: float | None = None,
    row_axis: int | None = None,
) -> Parity:
    """Compare one output with a reference of the same shape and dtype.

    Args:
        name: of the output.
        sizes: of the free axes, by name.
        got: the ONNX file's.
        wanted: the framework's.
        tolerances: the largest error by dtype, as a share of the output's largest magnitude.
        max_error: one share for all floats in their place.
        row_axis: the axis of rows; None where the output has none.
    """
    errors, magnitude = _errors(got, wanted)
    error = float(errors.max(initial=0.0))
    if wanted.dtype.kind != "f" and wanted.dtype.name != "bfloat16":
        count = float(np.count_nonzero(errors))
        row = Parity(sizes, name, count, count / max(1, wanted.size), 0.0)
    elif not math.isfinite(error):
        row = Parity(sizes, name, math.inf, math.inf, 0.0)
    else:
        share = tolerances[wanted.dtype.name] if max_error is None else max_error
        relative = error / magnitude if magnitude else error
        row = Parity(sizes, name, error, relative, share * (magnitude + _ABSOLUTE_SHARE))
    if row.passes or row_axis is None:
        return row
    differ = np.moveaxis(errors > row.allowed, row_axis, 0).reshape(wanted.shape[row_axis], -1).any(axis=1)
    return replace(row, rows=tuple(np.flatnonzero(differ).tolist()), count=wanted.shape[row_axis])


def without(unread: Places, got: Array, wanted: Array) -> Array | None:
    """Return an output with the reference's values at places that nobody reads; None where it has no such places.

    Args:
        unread: by row and place.
        got, wanted: outputs, whose first axes are rows and places if they have such places.
    """
    if not unread.any() or wanted.shape[:2] != unread.shape:
        return None
    made = got.copy()
    made[unread] = wanted[unread]
    return made


def unread_notes(rows: Iterable[Parity]) -> list[str]:
    """Return a sentence for each output that was not compared at places that nobody reads."""
    errors: dict[str, float] = {}
    for row in rows:
        if row.unread is not None:
            errors[row.output] = max(row.unread, errors.get(row.output, 0.0))
    return [
        f"output {name}: before the first valid place of a row that is padded at its start, the ONNX file answers "
        f"otherwise than the framework (error {error:.2g}): attention has nothing to look at there, and nobody reads it"
        for name, error in errors.items()
    ]


def _errors(got: Array, wanted: Array) -> tuple[npt.NDArray[np.float64], float]:
    """Return the absolute difference of each element, and the largest magnitude of the reference.

    The difference is infinite where one of the two alone is finite, and for dtypes other than floats 1.
    """
    if wanted.dtype.kind != "f" and wanted.dtype.name != "bfloat16":
        return np.asarray(got != wanted, np.float64), 0.0
    expected, actual = wanted.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(expected) & np.isfinite(actual)
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    errors = np.where(same, 0.0, np.inf)
    errors[finite] = np.abs(expected[finite] - actual[finite])
    return errors, float(np.abs(expected[finite]).max(initial=0.0))


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None
