"""All streams of a server: how much they may have in hand together, and how they end when it stops."""

import threading
from collections.abc import Callable

from onnxserve_server.core import Clock
from onnxserve_server.edge.in_hand import Window
from onnxserve_server.edge.stream import Stream, StreamCall
from onnxserve_server.engine.engine import Engine
from onnxserve_server.observing import Observer


class Streams:
    """Handles the calls of InferenceService.Stream; open() makes the handler of one of them.

    Attributes:
        refused: streams that were opened since stop().
    """

    def __init__(self, engine: Engine, clock: Clock, window: Window, observer: Observer | None = None) -> None:
        self.observer = observer
        self.engine = engine
        self.clock = clock
        self.window = window
        self._lock = threading.Lock()
        self._live: dict[Stream, None] = {}
        self._waiting: dict[Stream, None] = {}  # for others to have less in hand
        self._in_hand = 0
        self._stopping = False
        self.refused = 0

    @property
    def active(self) -> int:
        """Streams that are open."""
        return len(self._live)

    @property
    def in_hand(self) -> int:
        """Requests of all streams that are not yet answered and sent."""
        return self._in_hand

    def open(self, call: StreamCall) -> "Stream":
        """Return the handler of a call."""
        stream = Stream(call, self)
        with self._lock:
            self._live[stream] = None
            stopping = self._stopping
            self.refused += stopping
        if stopping:
            stream.stop()
        else:
            stream.read_on()
        return stream

    def stop(self) -> None:
        """Take no more requests; streams end, with UNAVAILABLE, when those in hand are answered."""
        self._tell_all(Stream.stop)

    def abort(self) -> None:
        """End all streams with UNAVAILABLE, and what they have in hand with them."""
        self._tell_all(Stream.abort)

    def take(self) -> None:
        """Note that a stream has one more request in hand."""
        with self._lock:
            self._in_hand += 1

    def has_room(self, stream: "Stream") -> bool:
        """Whether a stream may read; where not, its read_on() is called when it may."""
        with self._lock:
            if self._in_hand < self.window.all_requests:
                return True
            self._waiting[stream] = None
            return False

    def give_back(self, count: int) -> None:
        """Note that a stream has so many requests fewer in hand."""
        woken: list[Stream] = []
        with self._lock:
            self._in_hand -= count
            if self._waiting and self._in_hand < self.window.all_requests:
                woken, self._waiting = list(self._waiting), {}
        for stream in woken:
            stream.read_on()

    def forget(self, stream: "Stream") -> None:
        """Note that a stream is over."""
        with self._lock:
            self._live.pop(stream, None)
            self._waiting.pop(stream, None)

    def _tell_all(self, what: Callable[["Stream"], None]) -> None:
        with self._lock:
            self._stopping = True
            live = list(self._live)
        for stream in live:
            what(stream)
