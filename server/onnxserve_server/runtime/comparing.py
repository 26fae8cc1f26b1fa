"""How far the rows of two runs differ.

At the same batch size, and at the same place in it, a kernel does the same arithmetic for a row whatever its neighbours
are, and gives the same bits: more than a few roundings is a dependence. At another batch size or place it may add up in
another order, and what follows may enlarge the difference: there only what is far beyond rounding counts.
"""

import math

import numpy as np
import numpy.typing as npt

from onnxserve.tensor import Array, DataType
from onnxserve_server.spec import TensorSpec

Changes = npt.NDArray[np.float64]

_ROUNDING = {DataType.DATA_TYPE_BFLOAT16: 2.0**-7, DataType.DATA_TYPE_FLOAT16: 2.0**-10}
_ROUNDING |= {DataType.DATA_TYPE_FLOAT: 2.0**-21, DataType.DATA_TYPE_DOUBLE: 2.0**-50}
_FAR = {DataType.DATA_TYPE_BFLOAT16: 0.1, DataType.DATA_TYPE_FLOAT16: 0.05}
_FAR |= {DataType.DATA_TYPE_FLOAT: 0.02, DataType.DATA_TYPE_DOUBLE: 1e-3}
_FAR_OF_OTHERS = 0.25
_SMALLEST = 1e-9  # magnitude of a row that a difference is related to


def rounding(spec: TensorSpec) -> float:
    """Return the largest change of a row that is rounding at one batch size and place, as row_changes() has it."""
    return _ROUNDING.get(spec.data_type, 0.0)


def far(spec: TensorSpec) -> float:
    """Return the change of a row from which on another batch size or place is more than another rounding."""
    return _FAR.get(spec.data_type, _FAR_OF_OTHERS)


def allowance(spec: TensorSpec, output: Array, tolerance: float) -> float:
    """Return the change of a row of an output that is allowed: rounding, and the tolerance of the configuration."""
    return max(rounding(spec), 0.0 if _is_label(spec, output) else tolerance)


def tolerance_for(spec: TensorSpec, output: Array, change: float) -> float:
    """Return the tolerance that allows a change of a row of an output; infinity if none does."""
    return math.inf if change >= 1 or _is_label(spec, output) else change


def row_changes(spec: TensorSpec, got: Array, wanted: Array) -> Changes:
    """Return how far each row of an output differs in two runs of the same shapes, as shares.

    For floats it is the largest difference over the largest magnitude of the row, for integers that or the share of
    elements that differ, whichever is less, for all others that share. Where one has NaN or infinity and the other
    has not, it is infinity. An output that all rows share is one row.
    """
    one, other = _by_row(spec, got), _by_row(spec, wanted)
    if one.dtype.kind not in "fiu":
        different: Changes = (one != other).mean(axis=1, dtype=np.float64) if one.size else np.zeros(len(one))
        return different
    with np.errstate(all="ignore"):
        left, right = one.astype(np.float64), other.astype(np.float64)
        same = (one == other) | (np.isnan(left) & np.isnan(right))
        delta = np.where(same, 0.0, np.nan_to_num(np.abs(left - right), nan=np.inf, posinf=np.inf))
        size = np.where(np.isfinite(right), np.abs(right), 0.0).max(axis=1, initial=_SMALLEST)
        changes: Changes = delta.max(axis=1, initial=0.0) / size
    if one.dtype.kind == "f" or not one.size:
        return changes
    at_least = np.where(
        same.all(axis=1), 0.0, np.finfo(np.float64).tiny
    )  # a difference of large integers may round to 0
    shares: Changes = np.minimum(np.maximum(changes, at_least), (~same).mean(axis=1))
    return shares


def _is_label(spec: TensorSpec, output: Array) -> bool:
    """Whether a row is a single value of integers, booleans or texts: each of these is an answer of its own."""
    return spec.data_type not in _ROUNDING and _by_row(spec, output).shape[1:] == (1,)


def _by_row(spec: TensorSpec, array: Array) -> Array:
    """Return an output as [rows, elements of a row]; bfloat16, which numpy does not have, as float32."""
    rows = array[None] if spec.batch_axis is None else np.moveaxis(array, spec.batch_axis, 0)
    flat = rows.reshape(len(rows), -1) if rows.size else rows.reshape(len(rows), 0)
    if spec.data_type == DataType.DATA_TYPE_BFLOAT16:
        return (flat.astype(np.uint32) << 16).view(np.float32)
    return flat
