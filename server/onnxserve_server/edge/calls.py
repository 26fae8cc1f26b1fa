"""Calls as either edge brings them: their methods for the handler, and the events that the handler takes.

Handlers know nothing of the edge below them: the lane drives them by events, the plain edge by threads.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from onnxserve_server.edge.status import Status

Metadata = tuple[tuple[str, str | bytes], ...]


class Call(Protocol):
    """A unary call at either edge. reply() or fail() ends it, once, from any thread.

    Attributes:
        deadline: seconds of Unix time; inf for none.
        metadata: of the caller, names in lower case.
        on_cancel: called, from any thread, when the caller leaves before the reply.
    """

    deadline: float
    metadata: Iterable[tuple[str, str | bytes]]
    on_cancel: Callable[[], None] | None

    def reply(self, message: bytes) -> None:
        """Reply with a message and the status OK.

        Raises:
            NotReceived: too many replies are not read by their callers; the call goes on, and fail() ends it.
        """
        ...

    def fail(self, status: Status) -> None:
        """End the call with an error."""
        ...


class StreamCall(Protocol):
    """A bidirectional call at either edge.

    Attributes:
        deadline: seconds of Unix time; inf for none.
        metadata: of the caller, names in lower case.
    """

    deadline: float
    metadata: Iterable[tuple[str, str | bytes]]

    def read(self) -> None:
        """Ask for the next message, from any thread. It comes by on_message(); one may be asked for at a time."""
        ...

    def send(self, message: bytes, *, more: bool) -> None:
        """Send a message, from any thread; on_sent() says when the next may follow. `more`: it follows at once."""
        ...

    def end(self, status: Status | None) -> None:
        """End the call, once, while nothing is being sent; None: with OK."""
        ...


class StreamEvents(Protocol):
    """The events of a stream. No method may raise or block."""

    def on_message(self, message: bytes) -> None:
        """Take the message that was asked for by read()."""
        ...

    def on_half_close(self) -> None:
        """The caller sends no more; the read that was asked for brings nothing."""
        ...

    def on_sent(self) -> None:
        """The message that was given to send() is out, or lost."""
        ...

    def on_gone(self) -> None:
        """The caller left."""
        ...


class _NoEvents:
    def on_message(self, message: bytes) -> None:
        pass

    def on_half_close(self) -> None:
        pass

    def on_sent(self) -> None:
        pass

    def on_gone(self) -> None:
        pass


OVER: StreamEvents = _NoEvents()
"""Takes the events of a stream that is over. Until the core's call is gone it counts as one of its connection: so a
stream and its call, which refer to each other, must not wait for a garbage collection."""

Handler = Callable[[Call, bytes], None]
"""Takes a call and its message. It must not raise or block."""

StreamHandler = Callable[[StreamCall], StreamEvents]
"""Takes a new stream and returns what takes its events. It must not raise or block."""
