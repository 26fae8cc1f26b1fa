"""Tensors as JSON: {"data_type", "shape", "data"}, or "base64" in place of "data" where there is much of it.

Numbers that JSON does not have are strings: "NaN", "Infinity", "-Infinity"; so are integers beyond 2^53, which
JavaScript would round.
A number may always be a string, if it is written as JSON writes numbers.
"""

import base64
import binascii
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxserve.tensor import BOOL, NAMES, NUMBERS, STORAGE, STRING, Array, DataType
from onnxserve_server.core import WireTensor
from onnxserve_server.errors import Violation
from onnxserve_server.spec import TensorSpec

_MAX_LISTED = 16_384  # elements; more are base64: a list of a million keeps the interpreter busy for half a second
_MAX_BYTES = 4 << 20  # of one output
_MAX_SAFE = 2**53
_MAX_AXES = 32  # as many as numpy can go through element by element
_VALUES = {STRING: "a string", BOOL: "true or false"}
_STRINGS, _BOOLS, _INTEGERS, _FLOATS = {str}, {bool}, {int, str}, {int, float, str}  # what JSON may give for them
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")  # Python's int() takes "1_000", " 5 " and digits of other scripts, too
_FLOAT = re.compile(_INTEGER.pattern + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_MAX_QUOTED = 40  # characters
_INFINITE = ("Infinity", "-Infinity")
_NOT_FINITE = ("NaN", *_INFINITE)
_FIELDS = ("data_type", "shape", "data", "base64")


def read_tensor(spec: TensorSpec, value: object, path: str, faults: list[Violation]) -> WireTensor | None:
    """Return an input as the engine takes it; or None, with its fault added to `faults`.

    `value` is {"data": nested lists, or a flat one beside "shape"} or {"base64": little-endian elements, "shape"};
    "data_type" may be left out. Whether it fits the model is checked by the engine.
    """
    if not isinstance(value, Mapping):
        faults.append(Violation(path, 'must be an object such as {"data": [[1, 2, 3]]}'))
        return None
    if unknown := sorted(value.keys() - set(_FIELDS)):
        faults.append(Violation(f"{path}.{unknown[0]}", f"unknown field; the fields are {', '.join(_FIELDS)}"))
        return None
    number, shape = value.get("data_type", NAMES[spec.data_type]), value.get("shape")
    if not isinstance(number, str) or number not in NUMBERS:
        faults.append(Violation(f"{path}.data_type", f"must be one of {', '.join(NUMBERS)}"))
        return None
    if shape is not None and not _is_shape(shape):
        faults.append(Violation(f"{path}.shape", "must be a list of sizes"))
        return None
    if ("data" in value) == ("base64" in value):
        faults.append(Violation(path, "exactly one of data and base64 is required"))
        return None
    try:
        if "base64" in value:
            return WireTensor(spec.name, NUMBERS[number], *_decoded(value["base64"], shape), ())
        return _tensor(spec.name, NUMBERS[number], _listed(value["data"], NUMBERS[number]), shape)
    except _Fault as fault:
        faults.append(Violation(f"{path}.{fault.field}", str(fault)))
        return None


def write_tensor(spec: TensorSpec, array: Array) -> dict[str, Any]:
    """Return an output as JSON has it. Its elements are row-major: "data", "base64", or neither and why, "omitted"."""
    fields: dict[str, Any] = {
        "name": spec.name,
        "data_type": NAMES[spec.data_type],
        "shape": array.shape,
        "labels": spec.labels,
    }
    if array.size <= _MAX_LISTED and _has_numbers(spec.data_type):
        return fields | {"data": [_json_number(element) for element in array.ravel().tolist()]}
    if array.size <= _MAX_LISTED and spec.data_type == STRING:
        return fields | {"data": [str(element) for element in array.ravel()]}
    if array.nbytes <= _MAX_BYTES and spec.data_type != STRING:
        return fields | {"base64": base64.b64encode(array.tobytes()).decode()}
    return fields | {"omitted": f"{array.size:,} elements are too many to show; use gRPC"}


class _Fault(Exception):
    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


def _decoded(text: object, shape: list[int] | None) -> tuple[tuple[int, ...], bytes]:
    if shape is None:
        raise _Fault("shape", "is required with base64")
    if not isinstance(text, str):
        raise _Fault("base64", "must be a string")
    try:
        return tuple(shape), base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _Fault("base64", f"not valid base64: {error}") from error


def _listed(data: object, number: DataType) -> Array:
    """Return nested lists as an array of the type, where each element is a value of it; strings as objects."""
    array: Array = np.array(data, object)
    if array.ndim > _MAX_AXES:
        raise _Fault("data", f"lists may be nested at most {_MAX_AXES} deep")
    kinds: set[Any]
    if number == STRING:
        kinds, wanted = _STRINGS, array.dtype
    elif number == BOOL:
        kinds, wanted = _BOOLS, STORAGE[number]
    elif not _has_numbers(number):
        raise _Fault("data", f"{NAMES[number]} values cannot be listed; send base64")
    else:
        wanted = STORAGE[number]
        kinds = _INTEGERS if wanted.kind in "iu" else _FLOATS
    needed = f"each element must be {_VALUES.get(number, f'a number of type {NAMES[number]}')}"
    found = {*map(type, array.flat)}
    if wrong := found - kinds:
        place = next(place for place, element in np.ndenumerate(array) if type(element) in wrong)
        raise _Fault(
            "data", "lists must be of equal length" if list in wrong else f"{needed}; element {[*place]} is not"
        )
    if str in found and number != STRING:
        for element in array.flat:
            if isinstance(element, str) and not _is_number(element, wanted):
                raise _Fault("data", f"{needed}: {element[:_MAX_QUOTED]!r} is not a valid number")
    try:
        with np.errstate(over="raise"):
            converted: Array = array.astype(wanted)
    except (ValueError, OverflowError, FloatingPointError) as error:
        raise _Fault("data", f"{needed}: {_beyond(array, wanted)}") from error
    if wanted.kind == "f" and any(element not in _INFINITE for element in array[np.isinf(converted)].flat):
        raise _Fault("data", f"{needed}: a value is too large")  # JSON's 1e400 is infinite to Python
    return converted


def _beyond(array: Array, wanted: "np.dtype[np.generic]") -> str:
    """Say which element, of those of valid numbers, the type does not hold."""
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)  # type: ignore[type-var]
        for place, element in np.ndenumerate(array):
            text = str(element)
            if len(text) > _MAX_QUOTED or not limits.min <= int(text) <= limits.max:
                return f"element {[*place]}: {text[:_MAX_QUOTED]} out of bounds for {wanted.name}"
    return "a value is too large"


def _is_number(text: str, wanted: "np.dtype[np.generic]") -> bool:
    """Whether a string is written as JSON writes numbers, or names one that JSON does not have."""
    if wanted.kind in "iu":
        return _INTEGER.fullmatch(text) is not None
    return text in _NOT_FINITE or _FLOAT.fullmatch(text) is not None


def _tensor(name: str, number: DataType, array: Array, shape: list[int] | None) -> WireTensor:
    sizes = array.shape if shape is None else tuple(shape)
    if array.ndim > 1 and sizes != array.shape:
        raise _Fault("shape", f"{list(sizes)} is not the shape of data, {list(array.shape)}")
    if math.prod(sizes) != array.size:
        raise _Fault("shape", f"{array.size} elements do not fill {list(sizes)}")
    if number != STRING:
        return WireTensor(name, number, sizes, array.tobytes(), ())
    try:
        return WireTensor(name, number, sizes, b"", [str(element).encode() for element in array.flat])
    except UnicodeEncodeError as error:
        raise _Fault("data", f"a string is not valid Unicode: {error.reason}") from error


def _has_numbers(number: DataType) -> bool:
    """Whether numpy knows the values of the type, not only their bits."""
    return number != STRING and STORAGE[number].name == NAMES[number]


def _json_number(value: float) -> float | str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return str(value) if isinstance(value, int) and abs(value) > _MAX_SAFE else value
