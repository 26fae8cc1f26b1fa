"""Values that no batch before had: what a model does with them, nobody has looked at yet."""

import math

import numpy as np

from onnxserve.tensor import BOOL, STRING, Array, DataType
from onnxserve_server.scheduling.batch import Batch
from onnxserve_server.spec import TensorSpec


class Extremes:
    """The lowest and highest value of each numeric input, in the batches that were taken in. Not thread-safe.

    A dependence that no check at load has found is caused by values unlike those that were made up there, which are
    often beyond what other callers send: larger, longer, later in a table.

    Args:
        inputs: the model's.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...]) -> None:
        self._inputs = [(i, spec) for i, spec in enumerate(inputs) if spec.batch_axis is not None and _is_number(spec)]
        self._known = {i: (math.inf, -math.inf) for i, _ in self._inputs}
        self._found = dict(self._known)

    def row_beyond(self, batch: Batch) -> int | None:
        """Return a row of a batch that has a value beyond those known; None if there is none."""
        row = None
        for i, spec in self._inputs:
            values = _joined([job.inputs[i] for job in batch.jobs], spec)
            if not values.size:
                continue
            low, high = self._known[i]
            lowest, highest = float(values.min()), float(values.max())
            if highest > high:  # never with NaN
                row = _row_of(int(values.argmax()), values, spec)
            elif lowest < low:
                row = _row_of(int(values.argmin()), values, spec)
            self._found[i] = min(low, lowest), max(high, highest)
        return row

    def take_in(self) -> None:
        """Know from now on what the batch has that was looked at last."""
        self._known.update(self._found)


def _is_number(spec: TensorSpec) -> bool:
    """Whether numpy can order the values of an input."""
    return spec.data_type not in (STRING, BOOL) and spec.data_type < DataType.DATA_TYPE_BFLOAT16


def _joined(arrays: list[Array], spec: TensorSpec) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, spec.batch_axis or 0)


def _row_of(place: int, values: Array, spec: TensorSpec) -> int:
    return int(np.unravel_index(place, values.shape)[spec.batch_axis or 0])
