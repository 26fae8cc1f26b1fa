"""Concurrent predict() calls of one client that are joined into one request: which calls wait, how long, and together.

While four calls of one key are in flight, further calls of that key wait. When fewer than four are in flight, or all of
them travel in one request, or MAX_WAIT is over, the waiting calls are sent, joined as far as the model allows, and the
answer is split again. So a few callers never wait, and many callers have about two requests in flight between them.

When a joined request fails with an error that need not have failed each of its calls, or when another version of the
model answers it, each call is sent alone and gets its own answer or error. At worst, with two calls, that makes half as
many requests more than without joining. A joined request that a server refused, and says why, is sent again as it is.
One that was refused otherwise, or whose connection broke, was the first attempt at each of its calls: the next ones are
made alone, so that a call which ends servers does not take the others with it.

Nothing here sends or sleeps: each client does that in its own way.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from onnxserve._joining import JoinedPart, Key, Spec
from onnxserve._models import ModelInfo
from onnxserve._retrying import Failed, Failure
from onnxserve._waiting import Batch, Outcome, Verdict, Waiter
from onnxserve.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelRunFailed,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2

MAX_WAIT = 0.002
"""How long a call waits for another one to return before it is sent, at most, in seconds.

A nearby server has answered a request for a small model by then; compared with a longer run it is little; and behind a
connection that hangs, waiting calls go on.
"""

MIN_TIMEOUT = 50 * MAX_WAIT
"""A call with a shorter timeout, in seconds, never waits: waiting may cost a fiftieth of the timeout."""

_FEW = 4  # fewer calls in flight are cheaper sent than joined: waking a waiting thread costs about as much as sending
_MAX_REQUESTS = 2  # in flight, before further calls wait: one that is being answered, and one that is queued
_PAUSE = 1.0  # seconds without joining after a joined request was refused, or another version answered it
_LONG_PAUSE = 10.0  # the same for a model that is not batched, or that the server does not describe
_MAX_SPECS = 1000

# Errors that do not depend on the request: each call would have got the same one alone.
_COMMON = (NotFound, PermissionDenied, Unauthenticated, Unavailable, Unimplemented)
# Errors after which joining goes on, and a reason: one of the requests has values that the model cannot compute with.
_USUAL = (Cancelled, DeadlineExceeded, ModelRunFailed)
_INVALID_VALUES = "INVALID_VALUES"


class _Group:
    """The calls of one key. Calls wait only while others are in flight.

    Attributes:
        calls: the number of calls in flight.
        requests: the number of requests that carry them.
        waiting: the calls that wait.
        checked: the model's limits that the key was last checked against, and whether it passed.
    """

    __slots__ = ("calls", "checked", "requests", "waiting")

    def __init__(self) -> None:
        self.calls = 0
        self.requests = 0
        self.waiting: list[Waiter] = []
        self.checked: tuple[Spec, bool] | None = None

    def add(self, calls: int) -> None:
        """Count a request of so many calls as in flight."""
        self.calls += calls
        self.requests += 1


class Coalescer:
    """Decides which calls are sent at once and which wait, and which of the waiting calls are joined. Thread-safe.

    Args:
        send: makes the gRPC call for a batch, which ends with answered() or failed(). Must not raise.
        ask: asks the server to describe a model, by name and version, which ends with learn(). Must not raise.
        max_message_bytes: the client's size limit of a request.

    Attributes:
        max_wait: MAX_WAIT; the clients keep to it.
    """

    def __init__(
        self, send: Callable[[Batch], None], ask: Callable[[str, str | None], None], max_message_bytes: int
    ) -> None:
        """Start with no calls in flight and no model known."""
        self.max_wait = MAX_WAIT
        self._max_bytes = max_message_bytes // 2  # there is more in a message than tensors
        self._send = send
        self._ask = ask
        self._lock = threading.Lock()  # guards the fields below, groups and outcomes; not held in send, ask and wake
        self._groups: dict[Key, _Group] = {}
        self._specs: dict[tuple[str, str | None], Spec | float] = {}  # by model and version; or when to ask again

    def offer(self, key: Key, inputs: Mapping[str, Array]) -> JoinedPart | None:
        """Return a copy of what a call adds to a joined request if it is to wait; None: it is to be sent at once."""
        group = self._groups.get(key)
        if group is None or group.calls < _FEW:
            return None
        spec = self._spec(key, group)
        return None if spec is None else spec.part_of(inputs)

    def start(self, key: Key) -> None:
        """Count a call as in flight, until finish()."""
        with self._lock:
            self._group(key).add(1)

    def wait(self, waiter: Waiter) -> bool:
        """Let a call wait and return True; or return False: others have ended, and it counts as in flight at once."""
        with self._lock:
            group = self._group(waiter.key)
            if group.calls < _FEW:
                group.add(1)
                return False
            waiter.is_first = not group.waiting
            group.waiting.append(waiter)
            return True

    def finish(self, key: Key, calls: int = 1) -> None:
        """Note that a request of so many calls has ended, and send the waiting calls if few others are in flight."""
        with self._lock:
            group = self._groups[key]
            group.calls -= calls
            group.requests -= 1
            batches = []
            if group.requests < _MAX_REQUESTS or group.calls < _FEW:
                batches = self._batches(key, group)
            if not group.requests:
                del self._groups[key]
        self._start(batches)

    def flush(self, waiter: Waiter) -> None:
        """Send all waiting calls, if this one still waits."""
        with self._lock:
            if waiter.batch is not None or waiter.outcome is not None:
                return
            batches = self._batches(waiter.key, self._groups[waiter.key])
        self._start(batches)

    def leave(self, waiter: Waiter) -> Outcome | None:
        """Give up a call and return None; or return how it had ended before."""
        if waiter.outcome is not None:
            return waiter.outcome
        with self._lock:
            if waiter.outcome is not None:
                return waiter.outcome
            waiter.outcome = Verdict.LEFT
            batches, batch = [], waiter.batch
            if batch is None:
                group = self._groups[waiter.key]
                group.waiting.remove(waiter)
                if waiter.is_first:  # no other caller would flush the calls behind it
                    batches = self._batches(waiter.key, group)
        self._start(batches)
        if batch is not None and batch.call is not None and batch.abandoned:
            batch.call.cancel()
        return None

    def abandon(self, waiter: Waiter) -> None:
        """Give up a call that is not to be sent alone either."""
        if self.leave(waiter) is Verdict.ALONE:
            self.finish(waiter.key)

    def answered(self, batch: Batch, response: inference_service_pb2.PredictResponse) -> None:
        """Give each call its part of an answer."""
        try:
            parts = batch.split(response)
        except Exception:  # whatever is wrong with the answer, each call gets its own one instead
            self.each_alone(batch)
            return
        self._deliver(batch, parts)

    def failed(self, batch: Batch, failed: Failed) -> None:
        """Give each call an error that concerns them all; else let each be sent alone, to get its own outcome."""
        if failed.failure is not Failure.FINAL:
            for waiter in batch.waiters:
                waiter.failed = failed
            self._deliver(batch, [Verdict.ALONE] * len(batch.waiters))
        elif isinstance(failed.error, _COMMON):
            self._deliver(batch, [failed.error.with_traceback(None)] * len(batch.waiters))
        elif isinstance(failed.error, _USUAL) or failed.error.reason == _INVALID_VALUES:
            self._deliver(batch, [Verdict.ALONE] * len(batch.waiters))
        else:
            self.each_alone(batch)

    def each_alone(self, batch: Batch) -> None:
        """Let each call be sent alone, and stop joining for a while."""
        self._forget(batch.key, batch.spec)
        self._deliver(batch, [Verdict.ALONE] * len(batch.waiters))

    def learn(self, model: str, version: str | None, info: ModelInfo | None) -> None:
        """Take the server's description of a model; None: the server has not given one."""
        spec = Spec(info, self._max_bytes) if info is not None else None
        with self._lock:
            self._specs[model, version] = spec if spec and spec.batches else monotonic() + _LONG_PAUSE

    def _group(self, key: Key) -> _Group:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
        return group

    def _spec(self, key: Key, group: _Group) -> Spec | None:
        """Return the model's limits if calls of a key may be joined; ask the server if they are not known."""
        known = self._specs.get(key[:2], 0.0)
        if isinstance(known, Spec):
            if group.checked is None or group.checked[0] is not known:
                group.checked = known, known.takes(key)
            return known if group.checked[1] else None
        with self._lock:
            due = self._specs.get(key[:2], 0.0) == known <= monotonic()
            if due:
                if len(self._specs) >= _MAX_SPECS:
                    self._specs.clear()
                self._specs[key[:2]] = math.inf  # until learn(), so that no other call asks
        if due:
            self._ask(key.model, key.version)
        return None

    def _forget(self, key: Key, spec: Spec) -> None:
        """Stop joining for a while, then ask the server again, unless that has happened already."""
        with self._lock:
            if self._specs.get(key[:2]) is spec:
                self._specs[key[:2]] = monotonic() + _PAUSE

    def _batches(self, key: Key, group: _Group) -> list[Batch]:
        """Return all waiting calls as batches, which count as in flight."""
        batches: list[Batch] = []
        waiting, group.waiting = group.waiting, []
        for waiter in waiting:
            if not batches or not batches[-1].add(waiter):
                batches.append(Batch(key, waiter))
        for batch in batches:
            if len(batch.waiters) == 1:
                batch.waiters[0].batch, batch.waiters[0].outcome = None, Verdict.ALONE
            group.add(len(batch.waiters))
        return batches

    def _start(self, batches: list[Batch]) -> None:
        for batch in batches:
            if len(batch.waiters) == 1:
                batch.waiters[0].wake()
            else:
                self._send(batch)

    def _deliver(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """End a batch: give an outcome to each call that was not given up, and send the waiting calls."""
        ended = []
        with self._lock:
            group = self._groups[batch.key]
            for waiter, outcome in zip(batch.waiters, outcomes, strict=True):
                waiter.batch = None  # or waiters and arrays would stay in memory until a garbage collection
                if waiter.outcome is None:
                    waiter.outcome = outcome
                    ended.append(waiter)
                    if outcome is Verdict.ALONE:
                        group.add(1)
        for waiter in ended:
            waiter.wake()
        self.finish(batch.key, len(batch.waiters))
