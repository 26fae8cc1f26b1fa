"""The plain edge: hot methods as ordinary handlers of the public grpc.server. Each call holds one of its threads."""

import math
import threading
from collections.abc import Callable, Mapping
from time import time

import grpc

from onnxserve_server.edge.status import Status

_NO_DEADLINE = 2.0**62  # the core gives calls without a deadline one in the year 292 billion

Handler = Callable[["PlainCall", bytes], None]
"""Takes a call and its message. It must not raise or block."""


class PlainEdge:
    """Serves unary methods as handlers of a public server.

    Args:
        server: a server made by grpc.server; its thread pool bounds the calls that run at a time.
        methods: full method names, such as "/package.Service/Method", each with its handler.
        flush: called, on the thread of each call, after its handler.
    """

    def __init__(self, server: grpc.Server, methods: Mapping[str, Handler], flush: Callable[[], None]) -> None:
        self._flush = flush
        self._live = 0
        self._idle = threading.Condition()
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for name, handler in methods.items():
            _, service, method = name.split("/")
            services.setdefault(service, {})[method] = grpc.unary_unary_rpc_method_handler(self._served_by(handler))
        for service, handlers in services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    @property
    def live_calls(self) -> int:
        """Calls that have been accepted and are not yet over."""
        return self._live

    def start(self) -> None:
        """Do nothing: the server's own threads serve."""

    def wait_drained(self, timeout: float) -> bool:
        """Wait, after the server was told to stop, until the last call is over; tell whether it is."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._live, timeout)

    def stop(self) -> bool:
        """Do nothing: the server's own threads end with it."""
        return True

    def _served_by(self, handler: Handler) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def serve(message: bytes, context: grpc.ServicerContext) -> bytes:
            with self._idle:
                self._live += 1
            try:
                call = PlainCall(context)
                handler(call, message)
                self._flush()
                return call.wait()
            finally:
                with self._idle:
                    self._live -= 1
                    self._idle.notify_all()

        return serve


class PlainCall:
    """One call: its thread waits until another answers. Implements edge.predict.Call."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        remaining = context.time_remaining()
        self.deadline = math.inf if remaining is None or remaining > _NO_DEADLINE else time() + remaining
        self._context = context
        self._answer: bytes | Status = b""
        self._answered = threading.Event()
        self._on_cancel: Callable[[], None] | None = None
        self._gone = False
        if not context.add_callback(self._on_closed):  # it may be called, in another thread, before it is added
            self._gone = True

    @property
    def on_cancel(self) -> Callable[[], None] | None:
        """What to call when the caller leaves before the answer; called at once when it has left."""
        return self._on_cancel

    @on_cancel.setter
    def on_cancel(self, callback: Callable[[], None] | None) -> None:
        self._on_cancel = callback
        if self._gone and callback is not None:
            callback()

    def reply(self, message: bytes) -> None:
        """Answer with a message and the status OK."""
        self._answer = message
        self._answered.set()

    def fail(self, status: Status) -> None:
        """Answer with an error."""
        self._answer = status
        self._answered.set()

    def wait(self) -> bytes:
        """Wait for the answer; return its message, or set the error on the context and return no bytes."""
        self._answered.wait()
        if isinstance(self._answer, bytes):
            return self._answer
        code, details, trailing_metadata = self._answer
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(tuple(trailing_metadata))
        return b""

    def _on_closed(self) -> None:
        self._gone = True
        if not self._answered.is_set() and self._on_cancel is not None:
            self._on_cancel()
