"""Hop 2: check a request against its model, once, so that nothing behind this point has to.

Every fault of a request is found and named, with the path of its field; nothing is converted or guessed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxserve.tensor import BOOL, NAMES, STORAGE, STRING, Array, DataType, strings_array
from onnxserve_server.core import Done, Job, Request, WireTensor
from onnxserve_server.engine.rules import Rules
from onnxserve_server.errors import InvalidRequest, Violation
from onnxserve_server.scheduling.response_size import ResponseSize
from onnxserve_server.spec import ModelSpec, TensorSpec

_MAX_NAMES = 10  # in one message
_PRIORITIES = range(-10, 11)
_STRING_OVERHEAD = 50  # bytes that a Python str takes beside its characters


class ServerInputs(NamedTuple):
    """State and feedback that the server adds to a request.

    Attributes:
        inputs: arrays by the position of the model's input. The caller must not send these.
        answered: the outputs of a request that names none.
        outputs: those that the server needs for itself; they come last in the result.
    """

    inputs: Mapping[int, Array]
    answered: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Admission:
    """Admits requests for one model. Thread-safe: it only reads the model's spec.

    Args:
        spec: what the model is.
        response_size: bounds the answers; None: they have no bound.
    """

    def __init__(self, spec: ModelSpec, response_size: ResponseSize | None = None) -> None:
        self._spec = spec
        self._response_size = response_size or ResponseSize(spec, math.inf)
        self._inputs = {tensor.name: _Input(i, tensor) for i, tensor in enumerate(spec.inputs)}
        self._defaults = {i: tensor.default for i, tensor in enumerate(spec.inputs) if tensor.default is not None}
        self._outputs = {tensor.name: tensor for tensor in spec.outputs}
        self._rows_first = spec.rows_first
        self._batch_axes = _batch_axes(spec)
        # Shapes that are fixed but for the batch axis need no comparing, nor do jobs that run alone: all share a key.
        self._one_key = not self._batch_axes or not any(
            tensor.has_free_axes or tensor.batch_axis is None for tensor in spec.inputs
        )
        self._like_axes = _like_axes(spec)
        self._rules = Rules(spec) if spec.rules else None

    def admit(self, request: Request, arrived: float, done: Done, server_inputs: ServerInputs | None = None) -> Job:
        """Return the request as a job, with what the server adds to it.

        Raises:
            InvalidRequest: it does not fit the model; all that is wrong with it is listed.
            ResponseTooLarge: its answer would hold more than one may.
        """
        spec = self._spec
        faults: list[Violation] = []
        outputs = self._wanted(request.outputs, faults) if request.outputs else spec.outputs
        if request.priority not in _PRIORITIES:
            message = f"must be between {_PRIORITIES[0]} and {_PRIORITIES[-1]}, not {request.priority}"
            faults.append(Violation("priority", message))
        given: Mapping[int, Array] = {}
        answered = len(outputs)
        if server_inputs is not None:
            own = outputs if request.outputs else server_inputs.answered
            outputs, answered = (*own, *server_inputs.outputs), len(own)
            given = server_inputs.inputs
        arrays = self._arrays(request.inputs, faults, given)
        if faults or arrays is None:
            raise InvalidRequest(faults, model=spec.name, version=spec.version)
        rows, nbytes = 1, sum(map(_size, request.inputs))
        if self._batch_axes:
            first, axis = self._batch_axes[0]
            rows = arrays[first].shape[axis]
        if not rows:  # it is run as one row of zeros, see gather(), whose size no byte of the message has paid for
            nbytes += sum(
                math.prod(spec.inputs[i].row_of(arrays[i].shape)) * arrays[i].itemsize for i, _ in self._batch_axes
            )
        self._check_together(arrays, rows, nbytes, request.inputs, faults)
        if self._rules is not None and not faults:
            faults += [
                Violation(self._path(index, request.inputs, field), text)
                for index, field, text in self._rules.broken(arrays)
            ]
        if faults:
            raise InvalidRequest(faults, model=spec.name, version=spec.version)
        self._response_size.check_before(outputs[:answered], arrays, rows or 1)
        return Job(
            inputs=arrays,
            outputs=outputs,
            rows=rows,
            nbytes=nbytes,
            key=None if self._one_key else self._key(arrays),
            arrived=arrived,
            deadline=request.deadline,
            priority=request.priority,
            rank=arrived - request.priority * spec.batching.ageing,
            done=done,
            trace=request.trace,
            answered=answered,
        )

    def _key(self, arrays: tuple[Array, ...]) -> object:
        """Return what jobs must have in common to share a run: the shapes of rows, and what is in shared inputs."""
        if self._rows_first:
            return tuple([array.shape[1:] for array in arrays])
        return tuple([_in_common(tensor, array) for tensor, array in zip(self._spec.inputs, arrays, strict=True)])

    def _arrays(
        self, tensors: Sequence[WireTensor], faults: list[Violation], given: Mapping[int, Array]
    ) -> tuple[Array, ...] | None:
        """Return the request's tensors and those that the server gives, in the model's order; None beside a fault."""
        inputs = self._inputs
        arrays = {**given}
        at_fault: list[int] = []
        for position, tensor in enumerate(tensors):
            known = inputs.get(tensor.name)
            if known is None:
                message = f"unknown input {tensor.name!r}; the model's inputs are {_names(self._spec.inputs)}"
                faults.append(Violation(f"inputs[{position}].name", message))
            elif known.index in given:
                message = f"input {tensor.name!r} is the sequence's state, which the server keeps; leave it out"
                faults.append(Violation(f"inputs[{position}].name", message))
            elif known.index in arrays or known.index in at_fault:
                faults.append(Violation(f"inputs[{position}].name", f"input {tensor.name!r} is given twice"))
            elif (array := known.array(tensor, position, faults)) is not None:
                arrays[known.index] = array
            else:
                at_fault.append(known.index)
        if len(arrays) + len(at_fault) < len(inputs):
            for index, default in self._defaults.items():
                arrays.setdefault(index, default)
        if len(arrays) + len(at_fault) < len(inputs):
            missing = [
                known.spec for known in inputs.values() if known.index not in arrays and known.index not in at_fault
            ]
            needed = [tensor for tensor in self._spec.inputs if tensor.default is None]
            message = f"{_names(missing)} missing; the model needs {_names(needed)}"
            faults.append(Violation("inputs", message))
        if faults:
            return None
        if len(arrays) == 1:
            return (arrays[0],)
        return tuple([arrays[i] for i in range(len(inputs))])

    def _wanted(self, names: Sequence[str], faults: list[Violation]) -> tuple[TensorSpec, ...]:
        wanted: list[TensorSpec] = []
        for i, name in enumerate(names):
            output = self._outputs.get(name)
            if output is None:
                faults.append(
                    Violation(
                        f"outputs[{i}]",
                        f"unknown output {name!r}; the model's outputs are {_names(self._spec.outputs)}",
                    )
                )
            elif output in wanted:
                faults.append(Violation(f"outputs[{i}]", f"output {name!r} is asked for twice"))
            else:
                wanted.append(output)
        return tuple(wanted)

    def _check_together(
        self, arrays: tuple[Array, ...], rows: int, nbytes: int, tensors: Sequence[WireTensor], faults: list[Violation]
    ) -> None:
        """Check all inputs together: equal numbers of rows, equal sizes of axes with one name, and the total size."""
        spec, policy = self._spec, self._spec.batching
        if len(arrays) > 1:
            counts = [arrays[i].shape[axis] for i, axis in self._batch_axes]
            if counts.count(rows) < len(counts):
                wrong = next(i for i, axis in self._batch_axes if arrays[i].shape[axis] != rows)
                sizes = ", ".join(f"{arrays[i].shape[axis]} in {spec.inputs[i].name!r}" for i, axis in self._batch_axes)
                message = f"all inputs must have the same number of rows: {sizes}"
                faults.append(Violation(self._path(wrong, tensors), message))
            for name, places in self._like_axes:
                if len({arrays[i].shape[axis] for i, axis in places}) > 1:
                    sizes = ", ".join(f"{arrays[i].shape[axis]} in {spec.inputs[i].name!r}" for i, axis in places)
                    path = self._path(places[-1][0], tensors)
                    faults.append(Violation(path, f"axis {name!r} must have the same size everywhere: {sizes}"))
        if rows > policy.max_rows and not policy.split:
            message = (
                f"{rows} rows exceed max_rows ({policy.max_rows}), and batching.oversize of the model is refuse: send "
                f"less at a time, or set it to split"
            )
            faults.append(Violation(self._path(self._batch_axes[0][0], tensors), message))
        if rows > policy.max_queue_rows or nbytes > policy.max_queue_bytes:
            message = (
                f"{rows} rows ({nbytes} bytes) exceed what the model's queue can ever hold: max_queue_rows is "
                f"{policy.max_queue_rows}, max_queue_bytes {policy.max_queue_bytes}; send less at a time, or raise them"
            )
            faults.append(Violation("inputs", message))

    def _path(self, index: int, tensors: Sequence[WireTensor], field: str = "shape") -> str:
        """Return the path of a field of a model's input in a request, which may list inputs in any order."""
        name = self._spec.inputs[index].name
        position = next((i for i, tensor in enumerate(tensors) if tensor.name == name), None)
        return "inputs" if position is None else f"inputs[{position}].{field}"  # the server gives it


class _Input:
    """Checks the tensors for one input of a model."""

    __slots__ = ("_row", "_row_bytes", "_storage", "index", "spec")

    def __init__(self, index: int, spec: TensorSpec) -> None:
        self.index = index
        self.spec = spec
        self._storage = STORAGE.get(spec.data_type, np.dtype(object))
        # The usual input, a free first axis over a row of fixed size, is checked by one comparison of each.
        self._row: tuple[int, ...] | None = None
        if spec.data_type not in (STRING, BOOL) and spec.shape and isinstance(spec.shape[0], str):
            row = tuple(size for size in spec.shape[1:] if isinstance(size, int))
            if len(row) == len(spec.shape) - 1:
                self._row = row
        self._row_bytes = math.prod(self._row or ()) * self._storage.itemsize

    def array(self, tensor: WireTensor, position: int, faults: list[Violation]) -> Array | None:
        """Return the tensor, the request's `position`-th, as an array; None when it does not fit, with a fault more."""
        shape = tensor.shape
        if (
            tensor.data_type == self.spec.data_type
            and shape
            and shape[1:] == self._row
            and len(tensor.data) == shape[0] * self._row_bytes
            and shape[0] > 0
            and not tensor.strings
        ):
            return np.frombuffer(tensor.data, self._storage).reshape(shape)
        return read_tensor(tensor, self.spec, f"inputs[{position}]", faults)


def _batch_axes(spec: ModelSpec) -> list[tuple[int, int]]:
    """Return the axes that rows lie along: (input, axis), ...; none in a model that is not batched."""
    if not spec.batching.enabled:
        return []
    return [(i, tensor.batch_axis) for i, tensor in enumerate(spec.inputs) if tensor.batch_axis is not None]


def _like_axes(spec: ModelSpec) -> list[tuple[str, list[tuple[int, int]]]]:
    """Return the named free axes, but for the batch axis, that occur more than once: name, [(input, axis), ...]."""
    batch = _batch_axes(spec)
    places: dict[str, list[tuple[int, int]]] = {}
    for i, tensor in enumerate(spec.inputs):
        for axis, size in enumerate(tensor.shape):
            if isinstance(size, str) and size and (i, axis) not in batch:
                places.setdefault(size, []).append((i, axis))
    return [(name, where) for name, where in places.items() if len(where) > 1]


def _in_common(tensor: TensorSpec, array: Array) -> object:
    """Return what this input of two jobs must have in common: the shape of a row, or all of it where it is shared."""
    if tensor.batch_axis is not None:
        return tensor.row_of(array.shape)
    if array is tensor.default:
        return None
    return array.shape, tuple(array.flat) if array.dtype == object else array.tobytes()


def read_tensor(tensor: WireTensor, spec: TensorSpec, path: str, faults: list[Violation]) -> Array | None:
    """Return one tensor as an array that fits its spec, or None and a fault more."""
    shape = tensor.shape
    if tensor.data_type != spec.data_type:
        faults.append(Violation(f"{path}.data_type", _wrong_type(tensor.data_type, spec)))
        return None
    if not (min(shape, default=0) >= 0 if spec.any_shape else _fits(shape, spec.shape)):
        faults.append(
            Violation(f"{path}.shape", f"input {spec.name!r} has the shape {_shape(spec.shape)}, not {list(shape)}")
        )
        return None
    if stray := _stray_field(tensor):
        faults.append(Violation(f"{path}.{stray}", f"must be empty for {NAMES[spec.data_type]}"))
        return None
    if tensor.data_type == STRING:
        return _strings(tensor, spec, path, faults)
    if tensor.data_type == BOOL and tensor.data.translate(None, b"\0\1"):
        # Kernels count with these bytes: other ones have made them answer with memory that was never theirs.
        faults.append(Violation(f"{path}.data", f"input {spec.name!r} is bool: each byte must be 0 or 1"))
        return None
    storage = STORAGE[tensor.data_type]
    if math.prod(shape) * storage.itemsize != len(tensor.data):
        needed = math.prod(shape) * storage.itemsize
        faults.append(
            Violation(
                f"{path}.data",
                f"{len(tensor.data)} bytes do not fill {list(shape)} of {NAMES[spec.data_type]}: expected {needed}",
            )
        )
        return None
    try:
        return np.frombuffer(tensor.data, storage).reshape(shape)
    except ValueError as error:  # a size that numpy cannot count, beside one of 0
        faults.append(Violation(f"{path}.shape", f"{list(shape)} is too large: {error}"))
        return None


def _wrong_type(data_type: DataType, spec: TensorSpec) -> str:
    expected = f"input {spec.name!r} is {NAMES[spec.data_type]}"
    if data_type == DataType.DATA_TYPE_UNSPECIFIED:
        return f"data_type is not set; {expected}"
    return f"{expected}, not {NAMES.get(data_type, f'type {data_type}')}; values are never converted"


def _stray_field(tensor: WireTensor) -> str:
    """Return the field that is filled although it is not the one for the tensor's type; "" for none."""
    if tensor.data_type == STRING:
        return "data" if tensor.data else ""
    return "strings" if tensor.strings else ""


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    for size, want in zip(shape, wanted, strict=True):
        if size != want and (size < 0 or isinstance(want, int)):
            return False
    return True


def _strings(tensor: WireTensor, spec: TensorSpec, path: str, faults: list[Violation]) -> Array | None:
    elements: list[str] = []
    for i, element in enumerate(tensor.strings):
        try:
            elements.append(element.decode())
        except UnicodeDecodeError as error:
            faults.append(
                Violation(
                    f"{path}.strings[{i}]",
                    f"input {spec.name!r} holds text, and this is not valid UTF-8: {error.reason}",
                )
            )
            return None
    try:
        return strings_array(elements, tensor.shape)
    except ValueError as error:
        faults.append(Violation(f"{path}.strings", str(error)))
        return None


def _size(tensor: WireTensor) -> int:
    """Return the bytes that a tensor holds."""
    size = len(tensor.data)
    if tensor.strings:
        size += sum([len(element) + _STRING_OVERHEAD for element in tensor.strings])
    return size


def _names(specs: Sequence[TensorSpec]) -> str:
    more = f" and {len(specs) - _MAX_NAMES} more" if len(specs) > _MAX_NAMES else ""
    return ", ".join(repr(spec.name) for spec in specs[:_MAX_NAMES]) + more


def _shape(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(size) if size != "" else "?" for size in shape) + "]"
