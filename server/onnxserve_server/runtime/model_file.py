"""What ONNX Runtime's Python interface does not say of a model, read from the model file itself.

ONNX Runtime shows a tensor of undeclared rank as a scalar, fails on text that is not UTF-8, and keeps the values of
initializers to itself. A file of protocol buffers is a sequence of fields that can be skipped unread, so that a large
file takes no memory here. The numbers of the fields are those of onnx.proto.
"""

import mmap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_MAX_VALUE = 1 << 20  # bytes of an initializer that counts as the default of an input; larger ones are weights

_Fields = Mapping[int, Sequence[int | memoryview]]


class _Model:
    GRAPH, METADATA = 7, 14


class _Graph:
    INITIALIZER, INPUT, OUTPUT = 5, 11, 12


class _Tensor:
    SIZES, FLOATS, INTEGERS, LONGS, NAME, RAW, DOUBLES, UNSIGNED, LOCATION = 1, 4, 5, 7, 8, 9, 10, 11, 14


_AS_BYTES = (_Tensor.RAW, _Tensor.FLOATS, _Tensor.DOUBLES)
_AS_INTEGERS = (_Tensor.INTEGERS, _Tensor.LONGS, _Tensor.UNSIGNED)


Shape = tuple[int | bytes, ...] | None
"""An int is a fixed size, bytes name a free axis; None: undeclared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Default:
    """The value of an input that may be left out: its shape, and its elements as their bytes or else as integers."""

    shape: tuple[int, ...]
    data: bytes
    integers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """The parts of a model file that are read.

    Attributes:
        metadata: pairs of key and value.
        shapes: as declared for the inputs and outputs of the graph, by their name.
        defaults: the small inputs that are initializers, by name; not those of strings, or of values in other files.
    """

    metadata: Sequence[tuple[bytes, bytes]] = ()
    shapes: Mapping[bytes, Shape] = field(default_factory=dict)
    defaults: Mapping[bytes, Default] = field(default_factory=dict)


def read_model_file(path: Path) -> ModelFile:
    """Read a model file.

    Raises:
        ValueError: it is not a file of protocol buffers; ONNX Runtime has a format of its own, too.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    model = _fields(memoryview(content))
    graph = _fields(_message(model, _Model.GRAPH))
    inputs = dict(map(_declaration, _messages(graph, _Graph.INPUT)))
    tensors = [_fields(tensor) for tensor in _messages(graph, _Graph.INITIALIZER)]
    named = {bytes(_message(tensor, _Tensor.NAME)): tensor for tensor in tensors}
    defaults = {name: _default(named[name]) for name in inputs if name in named}
    return ModelFile(
        metadata=[_entry(entry) for entry in _messages(model, _Model.METADATA)],
        shapes=dict(map(_declaration, _messages(graph, _Graph.OUTPUT))) | inputs,
        defaults={name: default for name, default in defaults.items() if default is not None},
    )


def _entry(message: memoryview) -> tuple[bytes, bytes]:
    """Read a StringStringEntryProto."""
    fields = _fields(message)
    return bytes(_message(fields, 1)), bytes(_message(fields, 2))


def _declaration(message: memoryview) -> tuple[bytes, Shape]:
    """Read a ValueInfoProto: its name, and the shape within the tensor within its type."""
    fields = _fields(message)
    tensor = _fields(_message(_fields(_message(fields, 2)), 1))
    shape = tuple(_size(size) for size in _messages(_fields(_message(tensor, 2)), 1)) if 2 in tensor else None
    return bytes(_message(fields, 1)), shape


def _size(message: memoryview) -> int | bytes:
    """Read a TensorShapeProto.Dimension: its value, or else its name."""
    fields = _fields(message)
    size = fields[1][-1] if 1 in fields else bytes(_message(fields, 2))
    return size if isinstance(size, int) and size < 1 << 63 else bytes(_message(fields, 2))


def _default(tensor: _Fields) -> Default | None:
    """Read a TensorProto, if it is small and holds its elements."""
    data = next((data for number in _AS_BYTES if (data := _message(tensor, number))), memoryview(b""))
    numbers = [value for number in _AS_INTEGERS for value in tensor.get(number, ())]
    if (
        not (data or numbers)
        or max(map(_length, (data, *numbers))) > _MAX_VALUE
        or tensor.get(_Tensor.LOCATION, (0,))[-1]
    ):
        return None
    return Default(
        shape=tuple(size for value in tensor.get(_Tensor.SIZES, ()) for size in _integers(value)),
        data=bytes(data),
        integers=tuple(integer for value in numbers for integer in _integers(value)),
    )


def _length(value: int | memoryview) -> int:
    return 0 if isinstance(value, int) else len(value)


def _integers(value: int | memoryview) -> list[int]:
    """Return a repeated field's integers, which may be packed."""
    if isinstance(value, int):
        return [value]
    integers, position = [], 0
    while position < len(value):
        integer, position = _varint(value, position)
        integers.append(integer)
    return integers


def _messages(fields: _Fields, number: int) -> list[memoryview]:
    return [value for value in fields.get(number, ()) if isinstance(value, memoryview)]


def _message(fields: _Fields, number: int) -> memoryview:
    """Return a field that is not repeated; empty if it is not there."""
    return (_messages(fields, number) or [memoryview(b"")])[-1]


def _fields(message: memoryview) -> _Fields:
    """Return a message's values by the number of their field; nested messages unread."""
    fields, position = defaultdict[int, list[int | memoryview]](list), 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            fields[number].append(value)
            continue
        if wire_type == _BYTES:
            size, position = _varint(message, position)
        elif wire_type in _SIZES:
            size = _SIZES[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        if position + size > len(message):
            raise ValueError(f"a field ends beyond its message, at byte {position}")
        fields[number].append(message[position : position + size])
        position += size
    return dict(fields)


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return an integer of 7 bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"an integer without an end, at byte {position}")
