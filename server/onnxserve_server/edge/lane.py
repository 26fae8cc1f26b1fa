"""The lane: hot methods of a public grpc.server, driven from a completion queue of their own.

grpc.server and grpc.aio are Python layers over one core. Most of what a small call costs in Python is spent in those
layers (locks, conditions, thread hops, event-loop wake-ups), not in the core. Here reflection, TLS, options and all
that is seldom called stay with the public server; the hot methods get one queue and one thread: an event comes, a
method of a slotted object runs, and the reply is sent from the thread that has it.

This module holds every use of grpcio's private layer. It is tested with the grpcio versions that pyproject.toml allows,
and self_test.py makes real calls through it at start; if anything fails the server uses the plain edge.

No lock is held while calling into the core. Calls are counted on the lane's thread alone, so counting needs none.
"""

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import grpc
from grpc._cython import cygrpc

from onnxserve_server.edge.calls import OVER, Handler, Metadata, StreamEvents, StreamHandler
from onnxserve_server.edge.status import Status, status_of
from onnxserve_server.edge.unsent import UnsentAnswers
from onnxserve_server.errors import NotReceived

logger = logging.getLogger(__name__)

MAX_RECEIVING = 4096
"""Calls that may wait for their message."""

_ARMED = 32  # calls of a method that the core can hand over without waiting for Python to ask for the next
_MAX_UNFLUSHED = 64  # messages handled before their requests are dispatched
_OK = cygrpc.StatusCode.ok
_NO_FLAGS = 0
_BUFFER_HINT = 1  # GRPC_WRITE_BUFFER_HINT: a write to the socket for each reply would be a third of a stream's cost
_NO_DEADLINE = 2.0**62  # the core gives calls without a deadline one in the year 292 billion
_STOP_TIMEOUT = 5.0  # seconds in which the core must report the end of calls that have their reply


class Lane:
    """Serves unary and bidirectional methods of a public server.

    Make it before the server starts, start() it right after, stop() it after the server's stop() was called.

    Args:
        server: a server made by grpc.server.
        methods: full names of unary methods, such as "/package.Service/Method", each with its handler.
        streams: the same of bidirectional methods.
        flush: called on the lane's thread when handlers have run and no further event waits, or many have been handled.
        note_burst: called with the seconds for which the lane took no event because it flushed a burst.
        trailer: gives the trailing metadata of successful unary replies.
        unsent: bounds the replies that are not read.
        note_reset: called with the caller, as the core names it, of a call that was reset before its message came.
    """

    def __init__(
        self,
        server: grpc.Server,
        methods: Mapping[str, Handler],
        streams: Mapping[str, StreamHandler],
        flush: Callable[[], None],
        *,
        unsent: UnsentAnswers,
        note_reset: Callable[[str], None] = lambda _: None,
        note_burst: Callable[[float], None] | None = None,
        trailer: Callable[[], Metadata] | None = None,
    ) -> None:
        self._core = server._cy_server
        self._methods = [
            *(_Method(name, UnaryCall, handler) for name, handler in methods.items()),
            *(_Method(name, StreamCall, handler) for name, handler in streams.items()),
        ]
        self._queue = cygrpc.CompletionQueue()
        self._core.register_completion_queue(self._queue)
        for method in self._methods:
            self._core.register_method(method.name)
        self._thread = threading.Thread(target=self._run, name="onnxserve-lane", daemon=True)
        self._flush = flush
        self._note_burst = note_burst
        self.trailer = trailer
        self.unsent = unsent
        self.note_reset = note_reset
        self.receiving: dict[UnaryCall, None] = {}  # calls without their message, the one first that came first
        self._unflushed = 0
        self._armed = 0
        self._live = 0
        self._drained = threading.Event()

    @property
    def live_calls(self) -> int:
        """Calls that have been accepted and are not yet over."""
        return self._live

    def start(self) -> None:
        """Take calls; the server must have been started."""
        for method in self._methods:
            for _ in range(_ARMED):
                self._arm(method)
        self._thread.start()

    def wait_drained(self, timeout: float) -> bool:
        """Wait, after the server's stop() was called, until the last call is over; return whether it is."""
        return self._drained.wait(timeout)

    def stop(self) -> bool:
        """End the lane's thread, after the server's stop() was called and every call has its reply.

        False: a call has none. The thread is left behind, since a reply on a queue that is shut down ends the process.
        """
        if self._thread.is_alive():
            if not self._drained.wait(_STOP_TIMEOUT):
                return False
            self._queue.shutdown()
            self._thread.join()
        return True

    def count_message(self) -> None:
        """Note, on the lane's thread, that a message goes to its handler: a flush is due."""
        self._unflushed += 1

    def expect_message(self, call: "UnaryCall") -> None:
        """Note, on the lane's thread, that a call waits for its message; too many do: end the one that came first."""
        self.receiving[call] = None
        if len(self.receiving) > MAX_RECEIVING:
            first = next(iter(self.receiving))
            del self.receiving[first]
            first.give_up()

    def _arm(self, method: "_Method") -> None:
        self._core.request_registered_call(self._queue, self._queue, method.name, method)
        self._armed += 1

    def _run(self) -> None:
        poll = self._queue.poll
        timeout, shutdown = cygrpc.CompletionType.queue_timeout, cygrpc.CompletionType.queue_shutdown
        while True:
            # While requests have come that are not yet flushed, only look whether more are there.
            event = poll(deadline=0) if self._unflushed else poll()
            kind = event.completion_type
            if kind == shutdown:
                return
            try:
                if kind != timeout:
                    self._handle(event)
                if self._unflushed and (kind == timeout or self._unflushed >= _MAX_UNFLUSHED):
                    self._unflushed = 0
                    self._flush_burst()
            except Exception:
                logger.exception("the lane could not handle an event")
            event = None  # holds a call, which the core cannot release while we wait for the next event

    def _flush_burst(self) -> None:
        if self._note_burst is None:
            self._flush()
        else:
            began = monotonic()
            self._flush()
            self._note_burst(monotonic() - began)

    def _handle(self, event: Any) -> None:
        tag = event.tag
        if type(tag) is not _Method:
            if tag(event):
                self._live -= 1
                self._check_drained()
            return
        self._armed -= 1
        if event.success:
            self._live += 1
            tag.make(event, tag.handler, self)  # before arming, which fails once the server is to stop
            with contextlib.suppress(ValueError):
                self._arm(tag)
        else:  # the server is stopping: the core gives back what was armed
            self._check_drained()

    def _check_drained(self) -> None:
        if not self._live and not self._armed:
            self._drained.set()


class _Method:
    """The tag under which calls of a method arrive."""

    __slots__ = ("handler", "make", "name")

    def __init__(self, name: str, make: Callable[[Any, Any, Lane], object], handler: object) -> None:
        self.name = name
        self.make = make
        self.handler = handler


class UnaryCall:
    """One call: receive, hand over, reply once. Implements calls.Call.

    Two events end it, in any order: the core has closed it, and the reply is out. Until then the core refers to us.
    """

    __slots__ = ("_call", "_closed", "_failed", "_handler", "_lane", "_replied", "deadline", "metadata", "on_cancel")

    def __init__(self, event: Any, handler: Handler, lane: Lane) -> None:
        self._lane = lane
        self._call = event.call
        self._handler = handler
        self._replied = False
        self._closed = False
        self._failed = False
        deadline: float = event.call_details.deadline
        self.deadline = deadline if deadline < _NO_DEADLINE else math.inf
        self.metadata = event.invocation_metadata
        self.on_cancel: Callable[[], None] | None = None
        lane.expect_message(self)
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._on_message)
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._on_closed)

    def reply(self, message: bytes) -> None:
        """Reply with a message and the status OK; see calls.Call."""
        trailer = self._lane.trailer
        self._lane.unsent.add(self, len(message))
        self._call.start_server_batch(
            (
                cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
                cygrpc.SendMessageOperation(message, _NO_FLAGS),
                cygrpc.SendStatusFromServerOperation(None if trailer is None else trailer(), _OK, b"", _NO_FLAGS),
            ),
            self._on_replied,
        )

    def fail(self, status: Status) -> None:
        """End the call with an error."""
        code, details, metadata = _wire_status(status)
        self._call.start_server_batch(
            (
                cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
                cygrpc.SendStatusFromServerOperation(metadata, code, details, _NO_FLAGS),
            ),
            self._on_replied,
        )

    def give_up(self) -> None:
        """End the call, whose message has not come, for others that need its place."""
        self._failed = True
        self.fail(status_of(NotReceived("the message did not come in time, and others needed its place")))

    def abandon(self, why: str) -> None:
        """End the call, whose reply is on its way. Implements unsent.Abandonable."""
        self._call.cancel(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], why)

    def peer(self) -> str:
        """Return the caller as the core names it. Implements unsent.Abandonable."""
        return _peer_of(self._call)

    # Each returns whether the call is over.

    def _on_message(self, event: Any) -> bool:
        self._lane.receiving.pop(self, None)
        message = event.batch_operations[0].message()
        if self._failed:
            return False
        if message is None:
            self._lane.note_reset(self.peer())
        if message is None or self._closed:  # the core may have a status of its own, as for a message that is too long
            self.fail(Status(grpc.StatusCode.CANCELLED, "the caller left, or sent no complete message", ()))
        else:
            self._lane.count_message()
            self._handler(self, message)
        return False

    def _on_closed(self, event: Any) -> bool:
        self._closed = True
        if event.batch_operations[0].cancelled() and self.on_cancel is not None:
            self.on_cancel()
        return self._replied

    def _on_replied(self, _: Any) -> bool:
        self._lane.unsent.remove(self)
        self._replied = True
        return self._closed


class StreamCall:
    """One bidirectional call. Implements calls.StreamCall.

    Like a unary one it is over when the core has closed it and its status is out.
    """

    __slots__ = ("_call", "_closed", "_ended", "_events", "_lane", "deadline", "metadata")

    def __init__(self, event: Any, handler: StreamHandler, lane: Lane) -> None:
        self._lane = lane
        self._call = event.call
        self._closed = False
        self._ended = False
        deadline: float = event.call_details.deadline
        self.deadline = deadline if deadline < _NO_DEADLINE else math.inf
        self.metadata = event.invocation_metadata
        self._call.start_server_batch((cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),), _nothing)
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._on_closed)
        self._events: StreamEvents = handler(self)

    def read(self) -> None:
        """Ask for the next message."""
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._on_message)

    def send(self, message: bytes, *, more: bool = False) -> None:
        """Send a message; the next one when the events have on_sent(). `more`: it waits, and may be written with it."""
        flags = _BUFFER_HINT if more else _NO_FLAGS
        try:
            self._lane.unsent.add(self, len(message), stream=True)
        except NotReceived as refused:
            self.abandon(refused.message)
            message = b""  # of a call that has ended: nothing goes out, and on_sent() comes
        self._call.start_server_batch((cygrpc.SendMessageOperation(message, flags),), self._on_sent)

    def end(self, status: Status | None) -> None:
        """End the call."""
        code, details, metadata = (_OK, b"", None) if status is None else _wire_status(status)
        self._call.start_server_batch(
            (cygrpc.SendStatusFromServerOperation(metadata, code, details, _NO_FLAGS),), self._on_ended
        )

    def abandon(self, why: str) -> None:
        """End the call, whose message is on its way. Implements unsent.Abandonable."""
        self._call.cancel(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], why)

    def peer(self) -> str:
        """Return the caller as the core names it. Implements unsent.Abandonable."""
        return _peer_of(self._call)

    # Each returns whether the call is over.

    def _on_message(self, event: Any) -> bool:
        message = event.batch_operations[0].message()
        if message is None:
            self._events.on_half_close()
        else:
            self._lane.count_message()
            self._events.on_message(message)
        return False

    def _on_sent(self, _: Any) -> bool:
        self._lane.unsent.remove(self)
        self._events.on_sent()
        return False

    def _on_closed(self, event: Any) -> bool:
        self._closed = True
        if event.batch_operations[0].cancelled():
            self._events.on_gone()
        return self._is_over()

    def _on_ended(self, _: Any) -> bool:
        self._ended = True
        return self._is_over()

    def _is_over(self) -> bool:
        if over := self._ended and self._closed:
            self._events = OVER
        return over


def _peer_of(call: Any) -> str:
    peer: bytes = call.peer()
    return peer.decode()


def _nothing(_: Any) -> bool:
    return False


def _wire_status(status: Status) -> tuple[Any, bytes, tuple[tuple[str, str | bytes], ...]]:
    return status.code.value[0], status.details.encode(), tuple(status.trailing_metadata)
