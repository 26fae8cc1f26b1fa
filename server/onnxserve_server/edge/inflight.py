"""What a stream has in flight: its requests, in the order of their arrival, and their answers that are not yet sent."""

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
        nbytes: of the requests and unsent answers of one stream; a single request may have more.
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
    """What all streams of a server have in flight together, and its bound. Thread-safe.

    Attributes:
        window: how much may be in flight.
        active: streams that are open.
        in_flight: requests of all streams that are not yet answered and sent.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.active = 0
        self.in_flight = 0
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

    def take(self) -> None:
        """Note that a stream has one more request in flight."""
        with self._lock:
            self.in_flight += 1

    def has_room(self, stream: Reader) -> bool:
        """Whether a stream may read; where not, its read_on() is called when it may."""
        with self._lock:
            if self.in_flight < self.window.all_requests:
                return True
            self._waiting[stream] = None
            return False

    def give_back(self, count: int) -> None:
        """Note that a stream has so many requests fewer in flight."""
        woken: list[Reader] = []
        with self._lock:
            self.in_flight -= count
            if self._waiting and self.in_flight < self.window.all_requests:
                woken, self._waiting = list(self._waiting), {}
        for stream in woken:
            stream.read_on()


class InflightRequest:
    """The place of a request among the others. Its answers come here: one, or one for each of its steps."""

    __slots__ = ("answers", "complete", "nbytes", "request_id", "work")

    def __init__(self, nbytes: int) -> None:
        self.request_id = ""
        self.nbytes = nbytes
        self.work: Cancellable | None = None
        self.answers: deque[bytes] = deque()
        self.complete = False


class Inflight:
    """The places of one stream. Not thread-safe: the stream has a lock.

    A request of several steps is held while the bytes are at their bound; but never the first one when its own answers
    are out, for what lies behind it cannot leave before it.
    """

    def __init__(self, window: Window) -> None:
        self.places: deque[InflightRequest] = deque()
        self._window = window
        self._nbytes = 0
        self._held: dict[InflightRequest, Callable[[], None]] = {}

    @property
    def is_full(self) -> bool:
        """Whether there is as much as may be."""
        return len(self.places) >= self._window.requests or self._nbytes >= self._window.nbytes

    def add(self, nbytes: int) -> InflightRequest:
        """Return the place of a new request of so many bytes."""
        place = InflightRequest(nbytes)
        self.places.append(place)
        self._nbytes += nbytes
        return place

    def drop_last(self) -> None:
        """Forget the newest request, which has no answer."""
        self._nbytes -= self.places.pop().nbytes

    def leave(self, place: InflightRequest) -> int | None:
        """Leave a request without its last answer; return how many fewer there are. None: it is not the newest."""
        if not self.places or self.places[-1] is not place:
            return None
        self._complete(place)
        if place.answers:
            return 0
        self.places.pop()
        return 1

    def put(self, place: InflightRequest, message: bytes, *, final: bool) -> None:
        """Put an answer in its place; `final`: it is the last one there."""
        self._nbytes += len(message)
        place.answers.append(message)
        if final:
            self._complete(place)

    def take(self) -> tuple[bytes | None, int]:
        """Take the next answer to send, and how many requests it leaves fewer; None: it is not there yet."""
        place = self.places[0]
        if not place.answers:
            return None, 0
        message = place.answers.popleft()
        self._nbytes -= len(message)
        if place.answers or not place.complete:
            return message, 0
        self.places.popleft()
        return message, 1

    @property
    def next_is_due(self) -> bool:
        """Whether take() would give a message."""
        return bool(self.places and self.places[0].answers)

    def hold(self, place: InflightRequest, resume: Callable[[], None]) -> bool:
        """Whether a request has to wait before its next step; resumable() gives `resume` when it may go on."""
        if place.complete or self._nbytes < self._window.nbytes or self._is_due(place):
            return False
        self._held[place] = resume
        return True

    def resumable(self) -> Sequence[Callable[[], None]]:
        """Take those that need not be held any longer."""
        if not self._held:
            return ()
        if self._nbytes < self._window.nbytes:
            resumed = list(self._held.values())
            self._held.clear()
            return resumed
        first = self.places[0]
        if first in self._held and self._is_due(first):
            return (self._held.pop(first),)
        return ()

    def works(self, request_id: str | None = None) -> list[Cancellable]:
        """Return what runs or waits, of the requests of that name or of all, the last one first.

        Whoever withdraws it in this order starts none of them: a step waits for the one before.
        """
        return [
            place.work
            for place in reversed(self.places)
            if place.work is not None and (request_id is None or place.request_id == request_id)
        ]

    def clear(self) -> int:
        """Forget everything; return how many requests it was."""
        count = len(self.places)
        self.places.clear()
        self._held.clear()
        return count

    def _complete(self, place: InflightRequest) -> None:
        self._nbytes -= place.nbytes
        place.complete = True
        place.work = None
        if self._held:
            self._held.pop(place, None)

    def _is_due(self, place: InflightRequest) -> bool:
        """Whether the stream can send nothing before this request's next answer."""
        return place is self.places[0] and not place.answers
