"""The plain edge: hot methods as ordinary handlers of the public grpc.server. Each call holds one of its threads.

Unary calls share the threads of the server, except those of methods that have some of their own, as streams have.
"""

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from time import time
from typing import Any

import grpc

from onnxserve_server.edge.calls import OVER, Handler, Metadata, StreamEvents, StreamHandler
from onnxserve_server.edge.pool import CallPool, end
from onnxserve_server.edge.status import Status, status_of
from onnxserve_server.edge.unsent import UnsentAnswers
from onnxserve_server.errors import NotReceived

_APART = 8  # calls at a time of the methods that have threads of their own
_STREAMS = 1024  # streams at a time
_NO_DEADLINE = 2.0**62  # the core gives calls without a deadline one in the year 292 billion


class PlainEdge:
    """Serves unary methods as handlers of a public server.

    Args:
        server: a server made by grpc.server.
        pool: its threads; they bound the unary calls that run at a time.
        methods: full names of unary methods, such as "/package.Service/Method", each with its handler.
        streams: the same of bidirectional methods; each call has a second thread, which reads.
        flush: called, on the thread of each call, after its handler.
        unsent: bounds the replies that are not read.
        trailer: gives the trailing metadata of successful unary replies.
        apart: those of `methods` that have threads of their own, so that no others can take them.
    """

    def __init__(
        self,
        server: grpc.Server,
        pool: CallPool,
        methods: Mapping[str, Handler],
        streams: Mapping[str, StreamHandler],
        flush: Callable[[], None],
        *,
        unsent: UnsentAnswers,
        trailer: Callable[[], Metadata] | None = None,
        apart: Collection[str] = (),
    ) -> None:
        self._flush = flush
        self._trailer = trailer
        self.unsent = unsent
        self._live = 0
        self._idle = threading.Condition()
        self._apart = CallPool(_APART, "onnxserve-grpc-apart")
        self._streams = CallPool(_STREAMS, "onnxserve-grpc-streams")
        unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        pools = {name: self._apart if name in apart else pool for name in methods}
        handlers = {name: unary(self._served_by(handler, pools[name])) for name, handler in methods.items()}
        handlers |= {name: streaming(self._streamed_by(handler)) for name, handler in streams.items()}
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for name, registered in handlers.items():
            _, service, method = name.split("/")
            services.setdefault(service, {})[method] = registered
        for service, of_service in services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, of_service),))

    @property
    def live_calls(self) -> int:
        """Calls that have been accepted and are not yet over."""
        return self._live

    def start(self) -> None:
        """Do nothing: the server's own threads serve."""

    def wait_drained(self, timeout: float) -> bool:
        """Wait, after the server's stop() was called, until the last call is over; return whether it is."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._live, timeout)

    def stop(self) -> bool:
        """End the threads that are not the server's."""
        for pool in (self._apart, self._streams):
            pool.shutdown(wait=False)
        return True

    def _served_by(self, handler: Handler, pool: CallPool) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def serve(message: bytes, context: grpc.ServicerContext) -> bytes:
            with pool.running(), self._counted():
                call = PlainCall(context, self.unsent, pool.call)
                handler(call, message)
                self._flush()
                reply = call.wait()
                if self._trailer is not None:
                    context.set_trailing_metadata(self._trailer())
                return reply

        serve.experimental_thread_pool = pool  # type: ignore[attr-defined]  # for grpcio
        return serve

    def _streamed_by(
        self, handler: StreamHandler
    ) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        def serve(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            self._streams.begin()
            with self._counted():
                yield from PlainStreamCall(
                    context, messages, handler, self._flush, unsent=self.unsent, core_call=self._streams.call
                ).messages()

        serve.experimental_thread_pool = self._streams  # type: ignore[attr-defined]  # for grpcio
        return serve

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._idle:
            self._live += 1
        try:
            yield
        finally:
            with self._idle:
                self._live -= 1
                self._idle.notify_all()


class PlainCall:
    """One call: its thread waits until another one replies. Implements calls.Call."""

    def __init__(self, context: grpc.ServicerContext, unsent: UnsentAnswers, core_call: Any) -> None:
        self.deadline = _deadline(context)
        self.metadata = context.invocation_metadata()
        self._context = context
        self._core_call = core_call
        self._unsent = unsent
        self._outcome: bytes | Status = b""
        self._replied = threading.Event()
        self._on_cancel: Callable[[], None] | None = None
        self._gone = False
        if not context.add_callback(self._on_closed):  # it may be called, in another thread, before it is added
            self._gone = True

    @property
    def on_cancel(self) -> Callable[[], None] | None:
        """Called when the caller leaves before the reply; at once when it has left."""
        return self._on_cancel

    @on_cancel.setter
    def on_cancel(self, callback: Callable[[], None] | None) -> None:
        self._on_cancel = callback
        if self._gone and callback is not None:
            callback()

    def reply(self, message: bytes) -> None:
        """Reply with a message and the status OK; see calls.Call."""
        self._unsent.add(self, len(message))
        self._outcome = message
        self._replied.set()

    def fail(self, status: Status) -> None:
        """End the call with an error."""
        self._outcome = status
        self._replied.set()

    def wait(self) -> bytes:
        """Wait for the reply and return its message; an error is raised, as grpc wants it.

        Set beside no bytes, it would go out after a message, and gRPC's clients retry nothing that has brought one.
        """
        self._replied.wait()
        if isinstance(self._outcome, bytes):
            if self._gone:
                self._unsent.remove(self)
            return self._outcome
        self._context.set_trailing_metadata(tuple(self._outcome.trailing_metadata))
        self._context.abort(self._outcome.code, self._outcome.details)
        raise AssertionError("abort() raises")

    def abandon(self, why: str) -> None:
        """End the call, whose reply is on its way. Implements unsent.Abandonable."""
        end(self._core_call, why)

    def peer(self) -> str:
        """Return the caller as the core names it. Implements unsent.Abandonable."""
        peer: str = self._context.peer()
        return peer

    def _on_closed(self) -> None:
        self._gone = True
        self._unsent.remove(self)
        if not self._replied.is_set() and self._on_cancel is not None:
            self._on_cancel()


class PlainStreamCall:
    """One bidirectional call: a thread of its own reads, the call's thread sends. Implements calls.StreamCall."""

    def __init__(
        self,
        context: grpc.ServicerContext,
        messages: Iterator[bytes],
        handler: StreamHandler,
        flush: Callable[[], None],
        *,
        unsent: UnsentAnswers,
        core_call: Any,
    ) -> None:
        self.deadline = _deadline(context)
        self.metadata = context.invocation_metadata()
        self._context = context
        self._core_call = core_call
        self._messages = messages
        self._flush = flush
        self._unsent = unsent
        self._may_read = threading.Semaphore(0)
        self._over = False
        self._out: queue.SimpleQueue[bytes | Status | None] = queue.SimpleQueue()
        self._events: StreamEvents = handler(self)
        threading.Thread(target=self._read, name="onnxserve-plain-reader", daemon=True).start()
        if not context.add_callback(self._events.on_gone):
            self._events.on_gone()

    def read(self) -> None:
        """Ask for the next message."""
        self._may_read.release()

    def send(self, message: bytes, *, more: bool) -> None:  # noqa: ARG002 - grpc.server has no way to say it
        """Send a message; the next one when the handler has on_sent()."""
        self._out.put(message)

    def end(self, status: Status | None) -> None:
        """End the call; None: with OK."""
        self._out.put(status)

    def abandon(self, why: str) -> None:
        """End the call, whose message is on its way. Implements unsent.Abandonable."""
        end(self._core_call, why)

    def peer(self) -> str:
        """Return the caller as the core names it. Implements unsent.Abandonable."""
        peer: str = self._context.peer()
        return peer

    def messages(self) -> Iterator[bytes]:
        """Give the messages to send, until the call is to end."""
        try:
            while isinstance(item := self._out.get(), bytes):
                try:
                    self._unsent.add(self, len(item), stream=True)
                except NotReceived as refused:
                    item = status_of(refused)
                    break
                yield item  # comes back when it is sent
                self._unsent.remove(self)
                self._events.on_sent()
            if item is not None:
                _set_status(self._context, item)
        finally:  # when the caller leaves grpc drops this generator where it stands
            self._unsent.remove(self)
            self._over = True
            self._may_read.release()
            self._events.on_gone()
            self._events.on_sent()
            self._events = OVER

    def _read(self) -> None:
        while True:
            self._may_read.acquire()
            if self._over:
                return
            try:
                message = next(self._messages)
            except Exception:  # the end of the messages, or of the call: grpc raises a bare Exception then
                self._events.on_half_close()
                return
            self._events.on_message(message)
            self._flush()


def _deadline(context: grpc.ServicerContext) -> float:
    remaining = context.time_remaining()
    return math.inf if remaining is None or remaining > _NO_DEADLINE else time() + remaining


def _set_status(context: grpc.ServicerContext, status: Status) -> None:
    context.set_code(status.code)
    context.set_details(status.details)
    context.set_trailing_metadata(tuple(status.trailing_metadata))
