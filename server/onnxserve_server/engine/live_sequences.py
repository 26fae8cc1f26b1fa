"""The live sequences of a model: how many there may be, and which have been idle, or held, for too long."""

import math
import threading
from typing import TYPE_CHECKING

from onnxserve_server.core import Clock
from onnxserve_server.errors import DeadlineExceeded, ModelStopped, SequencesFull
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.spec import SequencePolicy

if TYPE_CHECKING:
    from onnxserve_server.engine.sequence import LiveSequence, PendingStep


class LiveSequences:
    """The live sequences of one model, and its requests that are held."""

    def __init__(self, policy: SequencePolicy, clock: Clock, deadlines: DeadlineWatch) -> None:
        self._policy = policy
        self._clock = clock
        self._deadlines = deadlines
        self._lock = threading.Lock()
        self._live: dict[LiveSequence, None] = {}
        self._held: dict[PendingStep, None] = {}
        self._stopped = False
        self.evicted = 0

    def __len__(self) -> int:
        """Return the number of live sequences."""
        return len(self._live)

    def open(self, sequence: "LiveSequence") -> None:
        """Note a new sequence.

        Raises:
            SequencesFull: there are as many as may be.
            ModelStopped: the model was stopped.
        """
        with self._lock:
            if self._stopped:
                raise ModelStopped
            if len(self._live) >= self._policy.max_live:
                raise SequencesFull(
                    f"{len(self._live)} sequences of the model are live, as many as its model.yaml allows"
                )
            self._live[sequence] = None

    def free(self, sequence: "LiveSequence") -> None:
        """Note that a sequence is over; more than once does no harm."""
        with self._lock:
            self._live.pop(sequence, None)

    def rest(self, sequence: "LiveSequence") -> None:
        """Note that a sequence has nothing to do from now on."""
        sequence.idle_since = now = self._clock()
        self._deadlines.watch(now + self._policy.idle)
        if self._stopped:  # while a step of it was on its way to a batcher that was closed
            self._let_leave(sequence)

    def hold(self, request: "PendingStep") -> None:
        """Keep the deadline of a request that waits for its caller to read, until let_go()."""
        with self._lock:
            self._held[request] = None
        if request.deadline != math.inf:
            self._deadlines.watch(request.deadline)

    def let_go(self, request: "PendingStep") -> None:
        """Note that a request ends, or is in a queue again. Cheap for a request that was never held."""
        if request in self._held:
            with self._lock:
                self._held.pop(request, None)

    def stop(self) -> None:
        """Refuse new sequences, and let go of all others, and of what is held; no step may run or wait."""
        with self._lock:
            self._stopped = True
            live, held = list(self._live), list(self._held)
        for request in held:
            if not request.follow(self):
                request.withdraw(ModelStopped())
        for sequence in live:
            self._let_leave(sequence)

    def expire(self, now: float) -> float:
        """Evict sequences idle for too long, end held requests that are too late; return when to look again, or inf."""
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
            elif sequence.evict("it was idle for too long"):
                self.evicted += 1
        return following

    def _let_leave(self, sequence: "LiveSequence") -> None:
        """Let a sequence go on where another model took the place of this one, else evict it if it is idle."""
        if not sequence.follow(self):
            sequence.evict("its model was stopped")
            self.free(sequence)
