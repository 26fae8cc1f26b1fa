"""How many sequences of a model are live, and what of them has been idle, or held, for too long."""

import math
import threading
from typing import Protocol

from onnxserve_server.core import Clock
from onnxserve_server.errors import DeadlineExceeded, SequencesFull, ServeError
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.spec import SequencePolicy


class Live(Protocol):
    """A live sequence.

    Attributes:
        idle_since: when its last step was over; None while one runs or waits.
    """

    idle_since: float | None

    def evict(self) -> bool:
        """Forget the state, unless a step runs or waits; tell whether it is forgotten."""
        ...


class Held(Protocol):
    """A request of several steps that waits for its caller to read, and is in no queue meanwhile."""

    @property
    def deadline(self) -> float:
        """A time of the clock; inf for none."""
        ...

    def withdraw(self, error: ServeError) -> None:
        """End it with `error`, unless it has ended."""
        ...


class SequenceBooks:
    """The live sequences of one model, and its requests that are held."""

    def __init__(self, policy: SequencePolicy, clock: Clock, deadlines: DeadlineWatch) -> None:
        self._policy = policy
        self._clock = clock
        self._deadlines = deadlines
        self._lock = threading.Lock()
        self._live: dict[Live, None] = {}
        self._held: dict[Held, None] = {}
        self.evicted = 0

    def __len__(self) -> int:
        """Return the number of live sequences."""
        return len(self._live)

    def open(self, sequence: Live) -> None:
        """Note a new sequence.

        Raises:
            SequencesFull: there are as many as may be.
        """
        with self._lock:
            if len(self._live) >= self._policy.most:
                raise SequencesFull(f"{self._policy.most} sequences of the model are live, which is as many as may be")
            self._live[sequence] = None

    def free(self, sequence: Live) -> None:
        """Note that a sequence is over; more than once does no harm."""
        with self._lock:
            self._live.pop(sequence, None)

    def rest(self, sequence: Live) -> None:
        """Note that a sequence has nothing to do from now on."""
        sequence.idle_since = now = self._clock()
        self._deadlines.watch(now + self._policy.idle)

    def hold(self, request: Held) -> None:
        """Keep the deadline of a request until let_go()."""
        if request.deadline != math.inf:
            with self._lock:
                self._held[request] = None
            self._deadlines.watch(request.deadline)

    def let_go(self, request: Held) -> None:
        """Note that a request ends, or is in a queue again. Cheap for those that hold() was not called for."""
        if request in self._held:
            with self._lock:
                self._held.pop(request, None)

    def expire(self, now: float) -> float:
        """End what has been idle, or held, for too long; return when the next one will have been, inf for none."""
        following = math.inf
        with self._lock:
            live, held = list(self._live), list(self._held)
        for request in held:
            if request.deadline > now:
                following = min(following, request.deadline)
            else:
                request.withdraw(DeadlineExceeded("the deadline passed while the caller did not read its answers"))
        for sequence in live:
            since = sequence.idle_since
            if since is None:
                continue
            if since + self._policy.idle > now:
                following = min(following, since + self._policy.idle)
            elif sequence.evict():
                self.free(sequence)
                self.evicted += 1
        return following
