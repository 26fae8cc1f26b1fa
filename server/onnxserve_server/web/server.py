"""An HTTP server on a thread of its own, for people and scrapers; other requests come by gRPC."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 256
"""Connections at a time: a new one closes the one that has been idle longest."""

_HEAD_TIMEOUT = 10.0  # seconds in which a connection must bring its first request
_GRACE = 1  # seconds for responses that are under way when the server stops
_START_TIMEOUT = 10.0  # seconds


class HttpServer:
    """Serves an application from start() to stop().

    Args:
        app: the application.
        listener: the socket on which it listens; it is closed at the end.

    Attributes:
        port: where it listens; -1 for a Unix socket.
    """

    def __init__(self, app: Callable[[], ASGIApp], listener: socket.socket) -> None:
        self._socket = listener
        self.port: int = -1 if listener.family == socket.AF_UNIX else listener.getsockname()[1]
        config = uvicorn.Config(
            app,
            factory=True,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            http=_Connection,
            timeout_graceful_shutdown=2 * _GRACE,  # by then nothing is left to cancel, see _Connection
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="onnxserve-http", daemon=True)

    def start(self) -> None:
        """Accept requests."""
        self._thread.start()

    def stop(self) -> None:
        """Accept no more, and end the thread."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_START_TIMEOUT)
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


class _Connection(H11Protocol):
    """A connection. uvicorn bounds neither their number nor their idle time, and each takes a descriptor."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._last_active = self.loop.time()
        self.loop.call_later(_HEAD_TIMEOUT, self._close_if_silent)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._last_active = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """See H11Protocol: a response is complete."""
        self._last_active = self.loop.time()
        super().on_response_complete()

    def shutdown(self) -> None:
        """See H11Protocol: the server stops. Cut off callers that still send; let others read their response."""
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete:
            self.transport.abort()
        else:
            super().shutdown()
            self.loop.call_later(_GRACE, self.transport.abort)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection that has been idle longest, rather than refuse the newest."""
        others = cast("set[_Connection]", self.connections) - {self}
        idlest = min((one for one in others if not one._is_waiting), key=lambda one: one._last_active, default=self)
        self.connections.discard(idlest)
        idlest.transport.abort()

    @property
    def _is_waiting(self) -> bool:
        """Whether the caller has sent a request, waits for the response, and reads."""
        cycle = self.cycle
        return cycle is not None and not (cycle.more_body or cycle.response_complete or self.flow.write_paused)
