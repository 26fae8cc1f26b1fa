"""All streams of a server: how much they may have in hand together, and how they end when it stops, or they are old."""

import math
import random
import threading
from collections.abc import Callable

from onnxserve_server.core import Clock
from onnxserve_server.edge.calls import StreamCall
from onnxserve_server.edge.inflight import Window
from onnxserve_server.edge.stream import Stream
from onnxserve_server.engine.engine import Engine
from onnxserve_server.observing import Observer

_SPREAD = 0.1  # of the lifetime, as gRPC's core has it for connections: else all that came together go together


class Streams:
    """Handles the calls of InferenceService.Stream; open() makes the handler of one of them.

    Args:
        engine: runs the requests.
        clock: the engine's.
        window: how much each may have in hand.
        observer: is told of each request, and of the end of each stream.
        lifetime: seconds after which a stream is to end and its caller to open another one.
        watch: is told when expire() is to be called.

    Attributes:
        refused: streams that were opened since stop().
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        window: Window,
        observer: Observer | None = None,
        *,
        lifetime: float = math.inf,
        watch: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.observer = observer
        self.engine = engine
        self.clock = clock
        self.window = window
        self._lock = threading.Lock()
        self._forgotten = threading.Condition(self._lock)
        self._live: dict[Stream, float] = {}  # and when each is to end
        self._lifetime = lifetime
        self._watch = watch
        self._next = math.inf  # when expire() has something to do
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
        end = self.clock() + self._lifetime * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311
        with self._lock:
            self._live[stream] = end
            self._next = min(self._next, end)
            stopping = self._stopping
            self.refused += stopping
        self._watch(end)
        if stopping:
            stream.stop()
        else:
            stream.read_on()
        return stream

    def stop(self) -> None:
        """Take no more requests; streams end, with UNAVAILABLE, when those in hand are answered."""
        self._tell_all(Stream.stop)

    def expire(self, now: float) -> float:
        """Stop those whose time has come; return when the next one's will."""
        if now < self._next:
            return self._next
        with self._lock:
            due = [stream for stream, end in self._live.items() if end <= now]
            self._live |= dict.fromkeys(due, math.inf)
            self._next = min(self._live.values(), default=math.inf)
            following = self._next
        for stream in due:
            stream.stop("the stream has been open for long: go on over another one")
        return following

    def cut_off(self, timeout: float) -> None:
        """Leave unanswered what streams have in hand, have the states handed over, and wait until all have ended."""
        self._tell_all(Stream.cut_off)
        with self._lock:
            self._forgotten.wait_for(lambda: not self._live, timeout)

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
            self._forgotten.notify_all()

    def _tell_all(self, what: Callable[["Stream"], None]) -> None:
        with self._lock:
            self._stopping = True
            live = list(self._live)
        for stream in live:
            what(stream)
