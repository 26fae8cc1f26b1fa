"""How many fields a message has, counted in its bytes: two of them may become a hundred when it is parsed.

What a field holds is skipped by its length, so that a message of a few large tensors takes microseconds, and the count
ends where there are too many.
"""

import functools
from collections import Counter
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from onnxserve.v1 import tensor_pb2
from onnxserve_server.errors import InvalidRequest, Violation
from onnxserve_server.spec import MAX_TENSORS

MAX_STRINGS = 1 << 20
"""Strings of all tensors of one message. Each takes some 120 bytes beside its characters until it is run."""

MAX_FIELDS = 1 << 16
"""Other fields of one message and of those in it."""

SMALL = 64 << 10
"""Bytes of a message that needs no counting: whatever it holds takes a few megabytes."""

_DELIMITED = 2  # a wire type
_MAX_VARINT = 10  # bytes
_TENSOR = tensor_pb2.Tensor.DESCRIPTOR.full_name
_STRINGS = tensor_pb2.Tensor.STRINGS_FIELD_NUMBER << 3 | _DELIMITED


class _Field(NamedTuple):
    """A field that is a message, or repeated."""

    name: str
    repeated: bool
    packable: bool
    kind: Descriptor | None  # of a message


def check_fields(descriptor: Descriptor, message: bytes) -> None:
    """Raise if a message would become far more than its bytes.

    Args:
        descriptor: the message's.
        message: its bytes.

    Raises:
        InvalidRequest: it has too many fields, or one has too many elements.
        DecodeError: the bytes are not such a message; not all that are none are found.
    """
    try:
        _Count(message).walk(descriptor, 0, len(message), "")
    except IndexError as error:
        raise DecodeError("it is cut short") from error


class _Count:
    """Counts the fields of one message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields = 0
        self._strings = 0

    def walk(self, descriptor: Descriptor, position: int, end: int, path: str) -> None:
        """Count the fields of a message in a span of the bytes, and of those in it; `path` is of its fields."""
        fields, counts = _counted(descriptor), Counter[int]()
        has_strings = descriptor.full_name == _TENSOR
        while position < end:
            key, position = _varint(self._data, position)
            if has_strings and key == _STRINGS:
                position = self._pass_strings(position, end, path)
                continue
            number, wire_type = key >> 3, key & 7
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise _too_many(path + _name(descriptor, number), f"here the message has more than {MAX_FIELDS} fields")
            position, size = _payload(self._data, position, wire_type)
            if (field := fields.get(number)) is not None:
                index = counts[number]
                counts[number] += size if field.packable and wire_type == _DELIMITED else 1
                if field.repeated and counts[number] > MAX_TENSORS:
                    raise _too_many(path + field.name, f"more than {MAX_TENSORS} elements")
                if field.kind and wire_type == _DELIMITED:
                    place = f"{path}{field.name}[{index}]." if field.repeated else f"{path}{field.name}."
                    self.walk(field.kind, position, position + size, place)
            position += size
        if position > end:
            raise DecodeError("a field is longer than what it is in")

    def _pass_strings(self, position: int, end: int, path: str) -> int:
        """Count strings in a row, from the length of the first on; return where the last ends."""
        data = self._data
        for count in range(self._strings + 1, MAX_STRINGS + 1):
            size = data[position]
            position += 1
            if size >= 0x80:
                size, position = _varint(data, position - 1)
            position += size
            if position >= end or data[position] != _STRINGS:
                self._strings = count
                return position
            position += 1
        raise _too_many(f"{path}strings", f"here the message has more than {MAX_STRINGS} strings")


def _payload(data: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """Return where what follows a key begins, and its bytes; a number is passed over, and has none."""
    match wire_type:
        case 0:
            return _varint(data, position)[1], 0
        case 1:
            return position, 8
        case 2:
            size, position = _varint(data, position)
            return position, size
        case 5:
            return position, 4
    raise DecodeError(f"a field has the wire type {wire_type}")  # groups, which no message of ours has


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = 0
    for i in range(_MAX_VARINT):
        byte = data[position + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    raise DecodeError(f"a number has more than {_MAX_VARINT} bytes")


@functools.cache
def _counted(descriptor: Descriptor) -> dict[int, _Field]:
    """Return the fields of a message that are messages, or repeated, by number."""
    not_packable = (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE)
    return {
        field.number: _Field(field.name, field.is_repeated, field.cpp_type not in not_packable, field.message_type)
        for field in descriptor.fields
        if field.is_repeated or field.message_type
    }


def _name(descriptor: Descriptor, number: int) -> str:
    field = descriptor.fields_by_number.get(number)
    return f"field {number}" if field is None else field.name


def _too_many(place: str, fault: str) -> InvalidRequest:
    return InvalidRequest([Violation(place, f"{fault}; no more are accepted: send fewer at a time")])
