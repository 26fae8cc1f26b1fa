"""Requests of streams in flight, in the order of their arrival, with their replies that are not yet sent."""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from onnxserve_server.engine.seam import Cancellable


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """How much may be in flight at a time.

    Attributes:
        requests: of one stream.
        nbytes: of the requests and unsent replies of one stream; a single request may have more.
        all_requests: of all streams together. A stream that has none may always take one.
    """

    requests: int
    nbytes: int
    all_requests: int


class Reader(Protocol):
    """A stream that may have to wait before it reads its next request."""

    def read_on(self) -> None:
        """Ask for the next message, unless the window is full."""
        ...


class StreamBudget:
    """The requests that all streams of a server have in flight together, and their bound. Thread-safe.

    Attributes:
        window: how much may be in flight.
        active: streams that are open.
        in_flight: requests of all streams whose last reply has not been sent.
        nbytes: of these requests and of their unsent replies, as the streams last reported them.
        max_nbytes: of all streams together. A stream that has none in flight may always take one request.
        on_excess: called where replies that wait behind unread ones take more than max_nbytes, to end the oldest: with
            how many times as much.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.active = 0
        self.in_flight = 0
        self.nbytes = 0
        self.max_nbytes = math.inf
        self.on_excess: Callable[[float], None] | None = None
        self._lock = threading.Lock()
        self._waiting: dict[Reader, None] = {}  # for others to have less in flight

    def open(self) -> None:
        """Note that a stream begins."""
        with self._lock:
            self.active += 1

    def close(self, stream: Reader) -> None:
        """Note that a stream is over."""
        with self._lock:
            self.active -= 1
            self._waiting.pop(stream, None)

    def take(self, nbytes: int) -> None:
        """Note that a stream has one more request in flight, and so many bytes more."""
        with self._lock:
            self.in_flight += 1
            self.nbytes += nbytes

    def grow(self, nbytes: int) -> None:
        """Note that the replies of a stream that wait behind another one take so many bytes more."""
        with self._lock:
            self.nbytes += nbytes
            times = self.nbytes / max(1, self.max_nbytes)
        if times > 1 and self.on_excess is not None:
            self.on_excess(times)

    def has_room(self, stream: Reader) -> bool:
        """Whether a stream may read; where not, its read_on() is called when it may."""
        with self._lock:
            if self._has_room:
                return True
            self._waiting[stream] = None
            return False

    def give_back(self, count: int, nbytes: int) -> None:
        """Note that a stream has so many requests, and bytes, fewer in flight."""
        woken: list[Reader] = []
        with self._lock:
            self.in_flight -= count
            self.nbytes -= nbytes
            if self._waiting and self._has_room:
                woken, self._waiting = list(self._waiting), {}
        for stream in woken:
            stream.read_on()

    @property
    def _has_room(self) -> bool:
        return self.in_flight < self.window.all_requests and self.nbytes < self.max_nbytes


class InflightRequest:
    """A request until its last reply is sent. Its replies wait here for their turn: one, or one for each of its steps.

    Attributes:
        request_id: the caller's name for it, "" for none.
        nbytes: of its message.
        submitted: the engine's job or step; None before it is submitted, and once it has ended.
        replies: messages that are to be sent.
        complete: whether the last reply is there.
    """

    __slots__ = ("complete", "nbytes", "replies", "request_id", "submitted")

    def __init__(self, nbytes: int) -> None:
        self.request_id = ""
        self.nbytes = nbytes
        self.submitted: Cancellable | None = None
        self.replies: deque[bytes] = deque()
        self.complete = False


class Inflight:
    """The requests of one stream in flight. Not thread-safe: the stream has a lock.

    A request of several steps is held while the bytes are at their bound; but never the first request when its own
    replies are out, for those behind it cannot leave before it.
    """

    def __init__(self, window: Window) -> None:
        self.requests: deque[InflightRequest] = deque()
        self._window = window
        self._nbytes = 0
        self._reported = 0
        self._held: dict[InflightRequest, Callable[[], None]] = {}

    @property
    def is_full(self) -> bool:
        """Whether the stream has as much in flight as it may."""
        return len(self.requests) >= self._window.requests or self._nbytes >= self._window.nbytes

    def grown(self) -> int:
        """Return how many bytes more are in flight than when this was called last; fewer are negative."""
        grown, self._reported = self._nbytes - self._reported, self._nbytes
        return grown

    def add(self, nbytes: int) -> InflightRequest:
        """Return a new request, of so many bytes."""
        request = InflightRequest(nbytes)
        self.requests.append(request)
        self._nbytes += nbytes
        return request

    def drop_last(self) -> None:
        """Forget the newest request, which has no reply."""
        self._nbytes -= self.requests.pop().nbytes

    def leave(self, request: InflightRequest) -> int | None:
        """Leave a request without its last reply; return how many fewer are in flight. None: it is not the newest."""
        if not self.requests or self.requests[-1] is not request:
            return None
        self._complete(request)
        if request.replies:
            return 0
        self.requests.pop()
        return 1

    def put(self, request: InflightRequest, message: bytes, *, final: bool) -> None:
        """Add a reply to a request; `final`: it is its last one."""
        self._nbytes += len(message)
        request.replies.append(message)
        if final:
            self._complete(request)

    def take(self) -> tuple[bytes | None, int]:
        """Take the next reply to send, and how many requests it leaves fewer in flight; None: it is not there yet."""
        request = self.requests[0]
        if not request.replies:
            return None, 0
        message = request.replies.popleft()
        self._nbytes -= len(message)
        if request.replies or not request.complete:
            return message, 0
        self.requests.popleft()
        return message, 1

    @property
    def next_is_due(self) -> bool:
        """Whether take() would give a message."""
        return bool(self.requests and self.requests[0].replies)

    def hold(self, request: InflightRequest, resume: Callable[[], None]) -> bool:
        """Whether a request has to wait before its next step; resumable() gives `resume` when it may go on."""
        if request.complete or self._nbytes < self._window.nbytes or self._is_due(request):
            return False
        self._held[request] = resume
        return True

    def resumable(self) -> Sequence[Callable[[], None]]:
        """Take the held requests that may go on."""
        if not self._held:
            return ()
        if self._nbytes < self._window.nbytes:
            resumed = list(self._held.values())
            self._held.clear()
            return resumed
        first = self.requests[0]
        if first in self._held and self._is_due(first):
            return (self._held.pop(first),)
        return ()

    def submitted(self, request_id: str | None = None) -> list[Cancellable]:
        """Return the jobs and steps of the requests of that name, or of all, the last one first.

        Withdrawn in this order none of them is started: a step waits for the one before.
        """
        return [
            request.submitted
            for request in reversed(self.requests)
            if request.submitted is not None and (request_id is None or request.request_id == request_id)
        ]

    def clear(self) -> int:
        """Forget everything; return how many requests were in flight."""
        count = len(self.requests)
        self.requests.clear()
        self._held.clear()
        self._nbytes = 0
        return count

    def _complete(self, request: InflightRequest) -> None:
        self._nbytes -= request.nbytes
        request.complete = True
        request.submitted = None
        if self._held:
            self._held.pop(request, None)

    def _is_due(self, request: InflightRequest) -> bool:
        """Whether the stream can send nothing before this request's next reply."""
        return request is self.requests[0] and not request.replies
