"""gRPC calls, each on a connection of its own, that send what they have as fast as HTTP/2's flow control lets them.

As little of HTTP/2 as that takes: what comes is kept and read by others later, so that the load costs little while the
server is being measured. Everything but the settings of flow control is as the protocol's defaults have it.
"""

import selectors
import socket
import struct
from contextlib import ExitStack

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SIZE = 4  # a setting
_STREAM = 1
_HEAD = struct.Struct(">BHBBI")  # length in three bytes, type, flags, stream
_SETTING = struct.Struct(">HI")
_UINT = struct.Struct(">I")
_WIDEST = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_MAX_FRAME = 16_384
_MAX_BYTES = 1 << 18  # that are read or buffered at a time
_OK = b"grpc-status\x010"  # gRPC's core does not compress its trailers


class _Call:
    """A call, until its `ended`.

    Attributes:
        socket: to wait for; not blocking.
        came: the messages of the answer, each with gRPC's prefix of five bytes.
        ended: whether the answer is complete.
    """

    def __init__(self, address: str, method: str, messages: bytes) -> None:
        """Connect, and prepare to send messages, each of which has gRPC's prefix."""
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.came = bytearray()
        self.ended = False
        self._body = memoryview(messages)
        self._window = _DEFAULT_WINDOW  # of the stream
        self._connection_window = _DEFAULT_WINDOW
        self._initial_window = _DEFAULT_WINDOW
        self._unread = b""
        self._out = bytearray(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._out += _frame(_SETTINGS, 0, 0, _SETTING.pack(_INITIAL_WINDOW_SIZE, _WIDEST))
        self._out += _frame(_WINDOW_UPDATE, 0, 0, _UINT.pack(_WIDEST - _DEFAULT_WINDOW))
        self._out += _frame(_HEADERS, _END_HEADERS, _STREAM, _header_block(address, method))

    @property
    def has_to_send(self) -> bool:
        """Whether there is something that may be sent now."""
        return bool(self._out) or (len(self._body) > 0 and min(self._window, self._connection_window) > 0)

    def send(self) -> None:
        """Send what may be sent and the socket takes."""
        while self._body and len(self._out) < _MAX_BYTES:
            length = min(len(self._body), self._window, self._connection_window, _MAX_FRAME)
            if length <= 0:
                break
            payload, self._body = self._body[:length], self._body[length:]
            self._window -= length
            self._connection_window -= length
            self._out += _frame(_DATA, 0 if self._body else _END_STREAM, _STREAM, payload)
        if self._out:
            del self._out[: self.socket.send(self._out)]

    def receive(self) -> None:
        """Take in what the socket has.

        Raises:
            RuntimeError: the call ended with an error, or not at all.
        """
        came = self.socket.recv(_MAX_BYTES)
        if not came:
            raise RuntimeError("the server closed the connection of a stream")
        came, begin = self._unread + came, 0
        while begin + _HEAD.size <= len(came):
            high, low, kind, flags, stream = _HEAD.unpack_from(came, begin)
            end = begin + _HEAD.size + (high << 16 | low)
            if end > len(came):
                break
            self._take(kind, flags, stream, came[begin + _HEAD.size : end])
            begin = end
        self._unread = came[begin:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self.came += payload
        elif kind == _HEADERS and flags & _END_STREAM:
            if _OK not in payload:
                raise RuntimeError(f"a stream ended with an error; its trailers are {payload!r}")
            self.ended = True
        elif kind == _WINDOW_UPDATE:
            (increment,) = _UINT.unpack(payload)
            if stream:
                self._window += increment
            else:
                self._connection_window += increment
        elif kind == _SETTINGS and not flags & _ACK:
            self._apply(payload)
            self._out += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._out += _frame(_PING, _ACK, 0, payload)
        elif kind in (_RESET, _GO_AWAY):
            raise RuntimeError(f"the server broke a stream off: {payload!r}")

    def _apply(self, settings: bytes) -> None:
        for setting, value in _SETTING.iter_unpack(settings):
            if setting == _INITIAL_WINDOW_SIZE:
                self._window += value - self._initial_window
                self._initial_window = value


def make_calls(address: str, method: str, messages: bytes, count: int, timeout: float = 60.0) -> list[bytes]:
    """Make so many calls at a time, each on a connection of its own, and return what came; all send the same.

    Raises:
        RuntimeError: a call failed, or nothing came for `timeout` seconds.
    """
    with ExitStack() as stack:
        calls = [_Call(address, method, messages) for _ in range(count)]
        selector = stack.enter_context(selectors.DefaultSelector())
        for call in calls:
            stack.enter_context(call.socket)
            selector.register(call.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, call)
        while selector.get_map():
            ready = selector.select(timeout)
            if not ready:
                raise RuntimeError(f"{address}{method} sent nothing for {timeout:g} s")
            for key, events in ready:
                _go_on(selector, key, events)
    return [bytes(call.came) for call in calls]


def _go_on(selector: selectors.BaseSelector, key: selectors.SelectorKey, events: int) -> None:
    call: _Call = key.data
    if events & selectors.EVENT_WRITE:
        call.send()
    if events & selectors.EVENT_READ:
        call.receive()
    if call.ended:
        selector.unregister(call.socket)
        return
    wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if call.has_to_send else 0)
    if wanted != key.events:
        selector.modify(call.socket, wanted, call)


def _frame(kind: int, flags: int, stream: int, payload: bytes | memoryview) -> bytes:
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _header_block(address: str, method: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": address,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())  # literals, as they are


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
