"""Connections to a gRPC server that send what no library would: frames of HTTP/2, made by hand."""

import contextlib
import socket
import struct

DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4  # a setting
CANCEL = 8  # an error
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct(">BHBBI")  # length in three bytes, type, flags, stream


def frame(kind, flags, stream, payload=b""):
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def setting(name, value):
    return struct.pack(">HI", name, value)


def prefixed(message, *, compressed=False):
    """A message as gRPC puts it into DATA."""
    return struct.pack(">BI", compressed, len(message)) + message


def header_block(path, **more):
    """The header of a call, as literals that are not indexed; underscores in names are hyphens."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    } | {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def call(stream, path, message=None, **more):
    """The frames of a call; without a message, of one whose message is still to come."""
    opened = frame(HEADERS, END_HEADERS, stream, header_block(path, **more))
    return opened if message is None else opened + frame(DATA, END_STREAM, stream, prefixed(message))


class Connection:
    """A connection on which the handshake is sent, with such settings."""

    def __init__(self, address, settings=b""):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self._unread = b""
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, ACK, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, frames):
        self.socket.sendall(frames)

    def send_until_refused(self, frames):
        """Whether all could be sent: the server may close the connection, or read no more, at any time."""
        try:
            self.socket.sendall(frames)
        except OSError:
            return False
        return True

    def frames(self):
        """Give the frames that come, (type, flags, stream, payload), until the server closes the connection."""
        with contextlib.suppress(ConnectionResetError):
            while True:
                while len(self._unread) >= _HEAD.size:
                    high, low, kind, flags, stream = _HEAD.unpack_from(self._unread)
                    end = _HEAD.size + (high << 16 | low)
                    if end > len(self._unread):
                        break
                    payload, self._unread = self._unread[_HEAD.size : end], self._unread[end:]
                    yield kind, flags, stream & 0x7FFFFFFF, payload
                if not (came := self.socket.recv(1 << 18)):
                    return
                self._unread += came


def _text(text):
    data = text if isinstance(text, bytes) else text.encode()
    length = len(data)
    if length < 127:
        return bytes([length]) + data
    length -= 127  # an integer of HPACK with a prefix of seven bits
    more = bytearray([127])
    while length >= 128:
        more.append(length % 128 + 128)
        length //= 128
    more.append(length)
    return bytes(more) + data
