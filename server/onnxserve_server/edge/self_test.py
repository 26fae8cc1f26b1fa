"""Whether the lane works with this grpcio: real calls through one of its own, made at each start."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from onnxserve_server.edge.calls import Call, StreamCall
from onnxserve_server.edge.lane import Lane
from onnxserve_server.edge.status import Status
from onnxserve_server.edge.unsent import UnsentAnswers

_TIMEOUT = 5.0  # seconds
_MAX_UNSENT = 1 << 20  # bytes
_DIRECT = [("grpc.enable_http_proxy", 0)]  # a proxy named in the environment is not for calls to ourselves


class LaneError(Exception):
    """The lane does not work with this grpcio; the text says what failed."""


def run() -> None:
    """Make real calls through a lane of its own: a reply, an error with metadata, a stream that echoes, and a call
    that its caller cancels.

    Raises:
        LaneError: something did not work as it must.
    """
    try:
        _SelfTest().run()
    except LaneError:
        raise
    except Exception as error:
        raise LaneError(f"{type(error).__name__}: {error}") from error


class _SelfTest:
    """A server with a method that replies, fails or waits for its caller to leave, as the message says, and an echo."""

    _METHOD = "/onnxserve.SelfTest/Try"
    _STREAM = "/onnxserve.SelfTest/Echo"

    def __init__(self) -> None:
        self._waiting = threading.Event()
        self._cancelled = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._server = grpc.server(self._pool)
        self._lane = Lane(
            self._server,
            {self._METHOD: self._handle},
            {self._STREAM: _Echo},
            flush=lambda: None,
            unsent=UnsentAnswers(_MAX_UNSENT),
        )

    def run(self) -> None:
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._lane.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=_DIRECT) as channel:
                method = channel.unary_unary(self._METHOD)
                self._try_reply(method)
                self._try_error(method)
                self._try_cancellation(method)
                self._try_stream(channel.stream_stream(self._STREAM))
        finally:
            stopped = self._server.stop(0)
            ended = self._lane.stop() and stopped.wait(_TIMEOUT)
            self._pool.shutdown(wait=ended)
        _require(ended, "it does not stop")

    def _handle(self, call: Call, message: bytes) -> None:
        if message == b"reply":
            call.reply(message)
        elif message == b"fail":
            call.fail(Status(grpc.StatusCode.DATA_LOSS, "as asked", (("reason", "asked"),)))
        else:
            call.on_cancel = lambda: self._leave(call)
            self._waiting.set()

    def _leave(self, call: Call) -> None:
        call.fail(Status(grpc.StatusCode.CANCELLED, "", ()))
        self._cancelled.set()

    def _try_reply(self, method: Any) -> None:
        _require(method(b"reply", timeout=_TIMEOUT) == b"reply", "a reply came back changed")

    def _try_error(self, method: Any) -> None:
        error = method.future(b"fail", timeout=_TIMEOUT).exception()
        _require(
            error is not None
            and (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "as asked")
            and ("reason", "asked") in error.trailing_metadata(),
            f"an error came back as {error}",
        )

    def _try_cancellation(self, method: Any) -> None:
        waiting = method.future(b"wait", timeout=_TIMEOUT)
        _require(self._waiting.wait(_TIMEOUT), "a call did not arrive")
        waiting.cancel()
        _require(self._cancelled.wait(_TIMEOUT), "a cancellation did not arrive")

    def _try_stream(self, stream: Any) -> None:
        replies = list(stream(iter((b"one", b"two")), timeout=_TIMEOUT))
        _require(replies == [b"one", b"two"], "the replies of a stream came back changed")


class _Echo:
    """Sends each message back."""

    def __init__(self, call: StreamCall) -> None:
        self._call = call
        call.read()

    def on_message(self, message: bytes) -> None:
        self._call.send(message, more=False)

    def on_sent(self) -> None:
        self._call.read()

    def on_half_close(self) -> None:
        self._call.end(None)

    def on_gone(self) -> None:
        pass


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise LaneError(otherwise)
