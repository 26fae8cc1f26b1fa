"""Messages as they come: any bytes give a message of the protocol, or an error that is the caller's.

gRPC's core unpacks compressed messages whatever they become: 60 kB, a thousand times as much. So it hands them over as
they came, and here they are refused, or unpacked within bounds. A protobuf never begins as gzip does: the byte 1f would
be a field of a wire type that does not exist.
"""

import zlib
from typing import Protocol, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from onnxserve_server.core import Clock, Request
from onnxserve_server.edge.codec import Cancellation, Codec, StreamedRequest
from onnxserve_server.edge.fields import SMALL, check_fields
from onnxserve_server.errors import EncodingNotSupported, InvalidRequest, MessageTooLarge, Violation

_M = TypeVar("_M", bound=Message)

_GZIP = b"\x1f\x8b"
_WINDOW = 16 + zlib.MAX_WBITS  # of gzip, for zlib
_ANY_WINDOW = 32 + zlib.MAX_WBITS  # of gzip or deflate
_UNPACKED = 1 << 16  # bytes that tell enough


class Parse(Protocol):
    """parse(), or one that unpacks before."""

    def __call__(self, kind: type[_M], message: bytes) -> _M:
        """See parse()."""
        ...


def parse(kind: type[_M], message: bytes) -> _M:
    """Return bytes as a message of a type.

    Raises:
        InvalidRequest: they are not one, or one of so many fields that it would become far larger.
        EncodingNotSupported: they are compressed.
    """
    try:
        if len(message) > SMALL:
            check_fields(cast("Descriptor", kind.DESCRIPTOR), message)
        return kind.FromString(message)
    except DecodeError as error:
        if (encoding := _encoding(message)) is not None:
            raise EncodingNotSupported(
                f"the message is compressed ({encoding}): send it without compression, or start the server with "
                "--compression gzip, by which it takes gzip",
                encoding=encoding,
            ) from error
        fault = Violation("request", f"not a valid {kind.DESCRIPTOR.name}: {error}")
        raise InvalidRequest([fault]) from error


class Gzip:
    """Unpacks messages that are compressed with gzip, and passes on the others.

    Args:
        max_bytes: of a message when it is unpacked.
        max_ratio: how many times as large as it came a message may become.
    """

    def __init__(self, max_bytes: int, max_ratio: int) -> None:
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio

    def unpack(self, message: bytes) -> bytes:
        """Return a message as it was before it was compressed.

        Raises:
            InvalidRequest: it is not valid gzip.
            MessageTooLarge: it becomes larger than it may.
        """
        if not message.startswith(_GZIP):
            return message
        limit = min(self._max_bytes, len(message) * self._max_ratio)
        try:
            unpacker = zlib.decompressobj(_WINDOW)
            unpacked = unpacker.decompress(message, limit + 1)
        except zlib.error as error:
            raise InvalidRequest([Violation("request", f"not valid gzip: {error}")]) from error
        if len(unpacked) > limit:
            cure = "raise --compression-ratio" if limit < self._max_bytes else "more are not accepted"
            raise MessageTooLarge(
                f"{len(message)} bytes become more than {limit} when unpacked: send them without compression; {cure}"
            )
        if not unpacker.eof:
            raise InvalidRequest([Violation("request", "not valid gzip: it is cut short")])
        if unpacker.unused_data:
            raise InvalidRequest([Violation("request", "not one member of gzip: bytes follow its end")])
        return unpacked

    def parse(self, kind: type[_M], message: bytes) -> _M:
        """Return bytes, compressed or not, as a message of a type; errors are those of unpack() and parse()."""
        return parse(kind, self.unpack(message))


class UnpackingCodec:
    """A codec whose messages may be compressed. Implements codec.Codec."""

    def __init__(self, codec: Codec, gzip: Gzip) -> None:
        self._codec = codec
        self._gzip = gzip
        self.encode_result = codec.encode_result
        self.encode_reply = codec.encode_reply
        self.encode_handoff = codec.encode_handoff

    def decode_request(self, message: bytes, deadline: float, clock: Clock) -> Request:
        """See UnaryCodec; errors are those of Gzip.unpack(), too."""
        return self._codec.decode_request(self._gzip.unpack(message), deadline, clock)

    def decode_message(self, message: bytes) -> StreamedRequest | Cancellation:
        """See StreamCodec; errors are those of Gzip.unpack(), too."""
        return self._codec.decode_message(self._gzip.unpack(message))


def _encoding(message: bytes) -> str | None:
    """The encoding that bytes are compressed in, where they are not a message: they unpack, to the end or for long."""
    unpacker = zlib.decompressobj(_ANY_WINDOW)
    try:
        unpacked = unpacker.decompress(message, _UNPACKED)
    except zlib.error:
        return None
    if not unpacker.eof and len(unpacked) < _UNPACKED:
        return None
    return "gzip" if message.startswith(_GZIP) else "deflate"
