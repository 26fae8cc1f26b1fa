"""All streams of a server: they end when it stops, and when they are old."""

import math
import random
import threading
from collections.abc import Callable

from onnxserve_server.edge.calls import StreamCall
from onnxserve_server.edge.stream import Stream, StreamMethod

_SPREAD = 0.1  # of the lifetime, as gRPC's core has it for connections: else all that came together go together


class Streams:
    """Handles the calls of a streaming method; open() makes the handler of one of them.

    Args:
        method: the method, as its calls share it.
        lifetime: seconds after which a stream is to end and its caller to open another one.
        watch: called with the time of the engine's clock at which expire() is to be called.

    Attributes:
        refused: streams that were opened since stop().
    """

    def __init__(
        self,
        method: StreamMethod,
        *,
        lifetime: float = math.inf,
        watch: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._method = method
        self._clock = method.engine.clock
        self._budget = method.budget
        self._lock = threading.Lock()
        self._forgotten = threading.Condition(self._lock)
        self._live: dict[Stream, float] = {}  # and when each is to end
        self._lifetime = lifetime
        self._watch = watch
        self._next = math.inf  # when expire() has something to do
        self._stopping = False
        self.refused = 0

    def open(self, call: StreamCall) -> Stream:
        """Return the handler of a call."""
        stream = Stream(call, self._method, self._forget)
        end = self._clock() + self._lifetime * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311
        self._budget.open()
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
        """Take no more requests; streams end, with UNAVAILABLE, when those in flight are answered."""
        self._for_all(Stream.stop)

    def expire(self, now: float) -> float:
        """Stop the streams whose time has come; return when the next one's will."""
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
        """Leave the requests in flight unanswered, hand the states over, and wait until all streams have ended."""
        self._for_all(Stream.cut_off)
        with self._lock:
            self._forgotten.wait_for(lambda: not self._live, timeout)

    def abort(self) -> None:
        """End all streams with UNAVAILABLE, and their requests in flight with them."""
        self._for_all(Stream.abort)

    def _forget(self, stream: Stream) -> None:
        self._budget.close(stream)
        with self._lock:
            self._live.pop(stream, None)
            self._forgotten.notify_all()

    def _for_all(self, do: Callable[[Stream], None]) -> None:
        with self._lock:
            self._stopping = True
            live = list(self._live)
        for stream in live:
            do(stream)
