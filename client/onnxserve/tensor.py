"""The Tensor codec: numpy arrays to and from the protocol's Tensor message, value for value.

Numpy has no bfloat16 and no float8 dtypes; the package ml_dtypes has them.
"""

import functools
import math
import numbers
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxserve.v1 import tensor_pb2

__all__ = [
    "BOOL",
    "NAMES",
    "NUMBERS",
    "STORAGE",
    "STRING",
    "Array",
    "DataType",
    "data_type_of",
    "decode",
    "encode",
    "strings_array",
]

Array = npt.NDArray[np.generic]
"""A numpy array of any dtype."""

DataType = tensor_pb2.DataType
"""The number of an element type, as in the protocol and in ONNX."""

STRING = tensor_pb2.DATA_TYPE_STRING
"""The DataType number of strings."""
BOOL = tensor_pb2.DATA_TYPE_BOOL
"""The DataType number of truth values."""

# Every element type but string: the numpy dtype that holds its bits, and its usual name.
_TYPES: dict[DataType, tuple[str, str]] = {
    tensor_pb2.DATA_TYPE_FLOAT: ("<f4", "float32"),
    tensor_pb2.DATA_TYPE_UINT8: ("u1", "uint8"),
    tensor_pb2.DATA_TYPE_INT8: ("i1", "int8"),
    tensor_pb2.DATA_TYPE_UINT16: ("<u2", "uint16"),
    tensor_pb2.DATA_TYPE_INT16: ("<i2", "int16"),
    tensor_pb2.DATA_TYPE_INT32: ("<i4", "int32"),
    tensor_pb2.DATA_TYPE_INT64: ("<i8", "int64"),
    tensor_pb2.DATA_TYPE_BOOL: ("?", "bool"),
    tensor_pb2.DATA_TYPE_FLOAT16: ("<f2", "float16"),
    tensor_pb2.DATA_TYPE_DOUBLE: ("<f8", "float64"),
    tensor_pb2.DATA_TYPE_UINT32: ("<u4", "uint32"),
    tensor_pb2.DATA_TYPE_UINT64: ("<u8", "uint64"),
    tensor_pb2.DATA_TYPE_BFLOAT16: ("<u2", "bfloat16"),
    tensor_pb2.DATA_TYPE_FLOAT8E4M3FN: ("u1", "float8_e4m3fn"),
    tensor_pb2.DATA_TYPE_FLOAT8E4M3FNUZ: ("u1", "float8_e4m3fnuz"),
    tensor_pb2.DATA_TYPE_FLOAT8E5M2: ("u1", "float8_e5m2"),
    tensor_pb2.DATA_TYPE_FLOAT8E5M2FNUZ: ("u1", "float8_e5m2fnuz"),
}

STORAGE: dict[DataType, np.dtype[np.generic]] = {number: np.dtype(code) for number, (code, _) in _TYPES.items()}
"""DataType number to the numpy dtype that holds its bits: the dtype itself, or unsigned integers if numpy lacks it."""

NAMES: dict[DataType, str] = {number: name for number, (_, name) in _TYPES.items()} | {STRING: "string"}
"""DataType number to the name of the matching numpy (or ml_dtypes) dtype, such as "float32"; "string" for strings."""

NUMBERS: dict[str, DataType] = {name: number for number, name in NAMES.items()}
"""The reverse of NAMES."""

_FOREIGN = {number for number, (code, name) in _TYPES.items() if np.dtype(code).name != name}


def data_type_of(array: Array) -> DataType:
    """Return the DataType number of an array's elements.

    Raises:
        TypeError: the protocol lacks the dtype (complex, dates, records).
    """
    return _number(array.dtype)


@functools.cache  # a dtype works out its name anew each time, and that is slow
def _number(dtype: np.dtype[np.generic]) -> DataType:
    if dtype.kind in "OUST":
        return STRING
    number = NUMBERS.get(dtype.name)
    if number is None:
        raise TypeError(f"the protocol has no type for dtype {dtype}; its types are {', '.join(NUMBERS)}")
    return number


def encode(name: str, array: Array) -> tensor_pb2.Tensor:
    """Return `array` as the Tensor message `name`. Any shape and memory order will do; values are never converted.

    Arrays of str, or of objects that are str or (UTF-8) bytes, become string tensors.

    Raises:
        TypeError: the protocol lacks the element type, an object array has elements other than strings, a str is not
            valid Unicode, or elements are masked.
    """
    number = data_type_of(array)
    if np.ma.is_masked(array):
        raise TypeError("masks cannot be sent: fill the masked elements of the array with filled()")
    if number == STRING:
        elements = array.astype(object).ravel().tolist()  # row-major
        try:
            strings = [*map(_utf8, elements)]
        except (TypeError, UnicodeEncodeError):
            raise TypeError(_fault(elements, array.shape)) from None
        return tensor_pb2.Tensor(name=name, data_type=number, shape=array.shape, strings=strings)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return tensor_pb2.Tensor(name=name, data_type=number, shape=array.shape, data=array.tobytes())


def decode(tensor: tensor_pb2.Tensor) -> Array:
    """Return a Tensor message as an array of its shape and type.

    Numbers are read-only views of the message's bytes (use copy() to change them); strings are an object array of str.

    Raises:
        ValueError: the message is inconsistent: unknown type, byte count that does not match the shape, invalid UTF-8.
        ImportError: bfloat16 or float8 without the package ml_dtypes.
    """
    shape = tuple(tensor.shape)
    if -1 in shape:  # numpy refuses other sizes below 0, and would work out this one
        raise ValueError(f"tensor {tensor.name!r} has the shape {list(shape)}")
    number = tensor.data_type
    if number == STRING:
        return strings_array([element.decode() for element in tensor.strings], shape)
    storage = STORAGE.get(number)
    if storage is None:
        raise ValueError(f"tensor {tensor.name!r} has an unknown data type: {number}")
    array = np.frombuffer(tensor.data, storage).reshape(shape)
    return array.view(_ml_dtype(NAMES[number])) if number in _FOREIGN else array


def strings_array(elements: Sequence[str], shape: tuple[int, ...]) -> Array:
    """Return str elements, in row-major order, as an object array of `shape`.

    Raises:
        ValueError: the number of elements is not the product of `shape`.
    """
    if len(elements) != math.prod(shape):
        raise ValueError(f"{len(elements)} strings do not fill the shape {list(shape)}")
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _utf8(element: object) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, bytes):
        return element
    raise TypeError(type(element).__name__)


def _fault(elements: list[object], shape: tuple[int, ...]) -> str:
    """Return what is wrong with the elements of an object array: of numbers, the first that is none."""
    wrong = [(i, element) for i, element in enumerate(elements) if not _is_string(element)]
    odd = [(i, element) for i, element in wrong if not isinstance(element, numbers.Number)]
    if not odd:
        kinds = sorted({type(element).__name__ for _, element in wrong})
        return (
            f"elements of a string tensor must be str or bytes, not {', '.join(kinds)}: send numbers as "
            f"np.asarray(x, dtype=...) with the dtype of the model's input"
        )
    i, element = odd[0]
    place = f"element [{', '.join(map(str, np.unravel_index(i, shape)))}]"
    if isinstance(element, str):
        return f"{place} is a str with a lone surrogate, {element!a}, which has no UTF-8"
    shown = "None" if element is None else f"a {type(element).__name__}"
    return f"{place} is {shown}: an array of objects may have only str and (UTF-8) bytes, a tensor of numbers no gaps"


def _is_string(element: object) -> bool:
    try:
        _utf8(element)
    except (TypeError, UnicodeEncodeError):
        return False
    return True


def _ml_dtype(name: str) -> np.dtype[np.generic]:
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(f"{name} arrays need the package ml_dtypes; pip install ml_dtypes") from None
    dtype: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
    return dtype
