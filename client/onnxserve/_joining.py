"""Joins requests into one and splits its answer; nothing here waits or sends."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxserve._call import PredictCall
from onnxserve._models import ModelInfo, TensorSpec
from onnxserve._prediction import Prediction
from onnxserve._wire import elements, joined_request
from onnxserve.tensor import NAMES, Array, DataType, data_type_of
from onnxserve.v1 import inference_service_pb2

# Joining saves the fixed cost of a request; copying a larger one costs more than that.
_MAX_BYTES = 1 << 20
_PRIORITIES = range(-10, 11)


class Key(NamedTuple):
    """What requests must have in common to be joined."""

    model: str
    version: str | None
    outputs: tuple[str, ...] | None
    priority: int
    inputs: tuple[tuple[str, DataType, tuple[int, ...]], ...]
    """Name, element type and shape of a row of each input, in the request's order."""


class JoinedPart(NamedTuple):
    """What one request adds to a joined one."""

    spec: "Spec"
    """The model's limits that the request was checked against."""
    rows: int
    nbytes: int
    data: list[bytes]
    """The elements() of each input."""


def key_of(call: PredictCall) -> Key | None:
    """Return the key of a request; None for an unusual or clearly wrong one, which is never joined."""
    model, outputs, version, priority = call.model, call.outputs, call.version, call.priority
    if type(model) is not str or type(priority) is not int or not (version is None or type(version) is str):
        return None  # a key of True or 1.0 would equal that of 1, but not all of them are right
    if outputs is not None:
        if not isinstance(outputs, list | tuple) or not outputs or not all(isinstance(name, str) for name in outputs):
            return None
        outputs = tuple(outputs)
    tensors = []
    try:
        for name, array in call.inputs.items():
            row = array.shape[1:]
            if not array.ndim or type(array) is not np.ndarray or array.dtype.byteorder == ">":
                return None
            tensors.append((name, data_type_of(array), row))
    except (AttributeError, TypeError):  # not a mapping, not an array, or a type that the wire lacks
        return None
    return Key(model, version, outputs, priority, tuple(tensors))


def join(key: Key, parts: Sequence[JoinedPart], request_id: str) -> bytes:
    """Return the serialized PredictRequest that asks for the rows of all parts, one after the other."""
    count = sum(part.rows for part in parts)
    columns = zip(*(part.data for part in parts), strict=True)
    head = inference_service_pb2.PredictRequest(
        model=key.model, version=key.version, outputs=key.outputs, priority=key.priority, request_id=request_id
    )
    return joined_request(
        head,
        [(name, number, (count, *row), data) for (name, number, row), data in zip(key.inputs, columns, strict=True)],
    )


def split(whole: Prediction, calls: Iterable[tuple[int, str]], shared: Container[str] = ()) -> list[Prediction]:
    """Return the answer to a joined request as one for each call, given by its number of rows and its request_id.

    Each call gets all of the outputs `shared`, which are the same for all rows.

    Raises:
        ValueError: the answer does not have a row for each row of the request.
    """
    parts, last = [], 0
    for count, request_id in calls:
        first, last = last, last + count
        parts.append(whole._part(first, last, request_id, shared))
    if any(array.shape[:1] != (last,) for name, array in whole.items() if name not in shared):
        raise ValueError(f"the answer to {last} rows has another number of rows")
    return parts


class Spec:
    """The limits of a model for joined requests.

    Attributes:
        batches: whether requests may be joined at all.
        version: the version that was described.
        shared: the outputs that are the same for all rows.
    """

    def __init__(self, info: ModelInfo, max_bytes: int) -> None:
        """Read a model's description; `max_bytes` is the client's own limit of a request."""
        self.shared = frozenset(each.name for each in info.outputs if each.batch_axis is None)
        with_rows = [each for each in info.outputs if each.name not in self.shared]
        self.batches = info.batching.enabled and all(each.batch_axis == 0 for each in (*info.inputs, *with_rows))
        self.version = info.version
        self._max_rows = min(info.batching.max_rows, info.batching.max_queue_rows)
        self._max_bytes = min(info.batching.max_queue_bytes, max_bytes, _MAX_BYTES)
        self._inputs = {each.name: each for each in info.inputs}
        self._outputs = {each.name for each in info.outputs}

    def takes(self, key: Key) -> bool:
        """Return whether requests of a key may be joined, because they fit the model as far as the key shows."""
        outputs = key.outputs or ()
        sizes: dict[str, int] = {}  # of the free axes that have names
        return (
            self.batches
            and key.priority in _PRIORITIES
            and len({*outputs} & self._outputs) == len(outputs)
            and {name for name, _, _ in key.inputs} == self._inputs.keys()
            and all(_takes(self._inputs[name], number, row, sizes) for name, number, row in key.inputs)
        )

    def part_of(self, inputs: Mapping[str, Array]) -> JoinedPart | None:
        """Return a copy of a request's inputs as they are sent; None for a request that is never joined.

        A request is never joined if it cannot be sent or a server would refuse it, or if two of its size exceed the
        limits.
        """
        arrays = inputs.values()
        rows = {*map(len, arrays)}
        data = [piece for array in arrays if (piece := elements(array)) is not None]
        if len(rows) != 1 or len(data) != len(arrays):
            return None
        part = JoinedPart(self, rows.pop(), sum(map(len, data)), data)
        return part if self.has_room(2 * part.rows, 2 * part.nbytes) else None

    def has_room(self, rows: int, nbytes: int) -> bool:
        """Return whether a joined request may be so large."""
        return rows <= self._max_rows and nbytes <= self._max_bytes


def _takes(spec: TensorSpec, number: DataType, row: tuple[int, ...], sizes: dict[str, int]) -> bool:
    axes = spec.shape[1:]
    return (
        NAMES[number] == spec.dtype
        and len(row) == len(axes)
        and all(
            size == (sizes.setdefault(axis, size) if isinstance(axis, str) else size if axis is None else axis)
            for size, axis in zip(row, axes, strict=True)
        )
    )
