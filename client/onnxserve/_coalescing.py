"""Concurrent predict() calls of one client that travel as one request: who waits, how long, and who goes together.

While four calls of a kind are out, further ones of that kind wait. When fewer are, or all travel in one request, or
PATIENCE is over, those that wait are sent, joined as far as the model allows, and the answer is split again. So a few
callers never wait, and many have about two requests out between them.

A joined request that fails, other than by what would have failed each of its calls, or that another version of the
model answers, is followed by each call alone, so that each gets its own answer or error: at worst half as many
requests more than without joining, for two calls.

Nothing here sends or sleeps: each client does that in its own way.
"""

import abc
import enum
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Protocol

from onnxserve._joining import Key, Share, Spec, join, split
from onnxserve._models import ModelInfo
from onnxserve._prediction import Prediction
from onnxserve.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelRunFailed,
    NotFound,
    OnnxserveError,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2

PATIENCE = 0.002
"""The longest that a call waits for another one to return before it is sent, in seconds.

A server nearby has answered a small model's request by then; beside a longer run it is little to wait; and where a
connection hangs, what waits behind it goes on.
"""

LEAST_TIMEOUT = 50 * PATIENCE
"""What a call's timeout must be for it to wait at all, in seconds: waiting is to cost no more than a fiftieth of it."""

_FEW = 4  # calls that are cheaper sent than waited for: to wake a waiting thread costs about as much as to send
_MOST_REQUESTS = 2  # one that is being answered, and one that lies ready
_REST = 1.0  # seconds without joining after a joined request was refused, or another version answered it
_LONG_REST = 10.0  # the same where the model is not batched, or the server does not describe it
_MOST_SPECS = 1000

# Errors that have nothing to do with the request itself: each member would have got the same alone.
_COMMON = (NotFound, PermissionDenied, Unauthenticated, Unavailable, Unimplemented)
# Errors that do not speak against joining.
_USUAL = (Cancelled, DeadlineExceeded, ModelRunFailed)


class Verdict(enum.Enum):
    """What can become of a call that waits, other than an answer or an error."""

    ALONE = enum.auto()
    """Its caller is to send it. It counts as being out."""
    LEFT = enum.auto()
    """Its caller has given it up."""


Outcome = Prediction | OnnxserveError | Verdict


class Member(abc.ABC):
    """A call that waits to be sent with others, and then for its part of the answer.

    Attributes:
        key: what it has in common with the others.
        share: what it adds to their request.
        deadline: when it ends, in seconds of time.monotonic(); inf for never.
        request_id: its name in its answer and errors. The server sees only that of the joined request.
        is_first: whether none waited before it: then it is to call hurry() when the patience is over.
        batch: what it travels in; None while it waits to be sent.
        outcome: what has become of it; None: nothing yet.
    """

    __slots__ = ("batch", "deadline", "is_first", "key", "outcome", "request_id", "share")

    def __init__(self, key: Key, share: Share, deadline: float, request_id: str) -> None:
        """Make one that waits for nothing yet."""
        self.key = key
        self.share = share
        self.deadline = deadline
        self.request_id = request_id
        self.is_first = False
        self.batch: Batch | None = None
        self.outcome: Outcome | None = None

    @property
    def time_left(self) -> float:
        """Seconds until the deadline: inf for none, never below 0."""
        return max(0.0, self.deadline - monotonic())

    @abc.abstractmethod
    def wake(self) -> None:
        """Have the caller look at the outcome. Called at most once, from any thread; must not block."""


class Call(Protocol):
    """A call of either client's that is out."""

    def cancel(self) -> object:
        """Give it up."""
        ...


class Batch:
    """Requests that travel as one.

    Attributes:
        key: what they have in common.
        spec: what the model was taken to be like.
        members: whose they are, in the order of their rows.
        call: what carries them, once it is made.
    """

    def __init__(self, key: Key, first: Member) -> None:
        """Make one of one member, with others to come as far as the model allows."""
        self.key = key
        self.spec = first.share.spec
        self.members = [first]
        self.call: Call | None = None
        self._rows = first.share.rows
        self._nbytes = first.share.nbytes
        first.batch = self

    def add(self, member: Member) -> bool:
        """Add a member and return True; or False: there is no room for it."""
        rows, nbytes = self._rows + member.share.rows, self._nbytes + member.share.nbytes
        if not self.spec.has_room(rows, nbytes):
            return False
        self._rows, self._nbytes = rows, nbytes
        self.members.append(member)
        member.batch = self
        return True

    @property
    def abandoned(self) -> bool:
        """Whether the callers of all members have left."""
        return all(member.outcome is Verdict.LEFT for member in self.members)

    @property
    def timeout(self) -> float | None:
        """Seconds until the last deadline, above 0; None: a member has none."""
        left = max(member.deadline for member in self.members) - monotonic()
        return None if left == math.inf else max(0.001, left)

    def message(self, request_id: str) -> bytes:
        """Return the joined request, serialized."""
        return join(self.key, [member.share for member in self.members], request_id)

    def split(self, response: inference_service_pb2.PredictResponse) -> list[Prediction]:
        """Return the members' parts of the answer; raises as the function of that name, and for another version's."""
        if response.version != self.spec.version:  # which may not compute row by row
            raise ValueError(f"version {response.version} answered, not {self.spec.version}")
        return split(response, [(member.share.rows, member.request_id) for member in self.members])


class _Lane:
    """The calls of one key. Something waits only while something is out."""

    __slots__ = ("calls", "checked", "requests", "waiting")

    def __init__(self) -> None:
        self.calls = 0  # that are out
        self.requests = 0  # that carry them
        self.waiting: list[Member] = []
        self.checked: tuple[Spec, bool] | None = None  # what the key was last checked against, and what came of it

    def add(self, calls: int) -> None:
        """Count a request of so many calls as being out."""
        self.calls += calls
        self.requests += 1


class Coalescer:
    """Decides which calls go alone and which wait, and of those that wait which go together. Thread-safe.

    Args:
        send: makes the call for a batch, which ends with answered() or failed(). Must not raise.
        ask: asks the server for a model, by name and version, which ends with learn(). Must not raise.
        max_message_bytes: the client's limit.

    Attributes:
        patience: PATIENCE, for the clients to keep to.
    """

    def __init__(
        self, send: Callable[[Batch], None], ask: Callable[[str, str | None], None], max_message_bytes: int
    ) -> None:
        """Begin with nothing out and nothing known."""
        self.patience = PATIENCE
        self._max_bytes = max_message_bytes // 2  # there is more in a message than tensors
        self._send = send
        self._ask = ask
        self._lock = threading.Lock()  # guards what follows and who is told what; not held in send, ask and wake
        self._lanes: dict[Key, _Lane] = {}
        self._specs: dict[tuple[str, str | None], Spec | float] = {}  # by model and version; or when to ask again

    def offer(self, key: Key, inputs: Mapping[str, Array]) -> Share | None:
        """Return what a call adds to a joined request, a copy, if it is to wait for others; None: it is to go at once.

        Raises:
            TypeError: see Spec.share_of().
        """
        lane = self._lanes.get(key)
        if lane is None or lane.calls < _FEW:
            return None
        spec = self._spec(key, lane)
        return None if spec is None else spec.share_of(inputs)

    def start(self, key: Key) -> None:
        """Note that a call is out, until it calls finish()."""
        with self._lock:
            self._lane(key).add(1)

    def wait(self, member: Member) -> bool:
        """Let a call wait and return True; or False: others have returned, it is to go at once and counts as out."""
        with self._lock:
            lane = self._lane(member.key)
            if lane.calls < _FEW:
                lane.add(1)
                return False
            member.is_first = not lane.waiting
            lane.waiting.append(member)
            return True

    def finish(self, key: Key, calls: int = 1) -> None:
        """Note that a request of so many calls is out no more, and send what waits if there are few others."""
        with self._lock:
            lane = self._lanes[key]
            lane.calls -= calls
            lane.requests -= 1
            batches = []
            if lane.requests < _MOST_REQUESTS or lane.calls < _FEW:
                batches = self._batches(key, lane)
            if not lane.requests:
                del self._lanes[key]
        self._start(batches)

    def hurry(self, member: Member) -> None:
        """Send what waits, if the member still does."""
        with self._lock:
            if member.batch is not None or member.outcome is not None:
                return
            batches = self._batches(member.key, self._lanes[member.key])
        self._start(batches)

    def leave(self, member: Member) -> Outcome | None:
        """Give a call up, and return None; or what had become of it before."""
        if member.outcome is not None:
            return member.outcome
        with self._lock:
            if member.outcome is not None:
                return member.outcome
            member.outcome = Verdict.LEFT
            batches, batch = [], member.batch
            if batch is None:
                lane = self._lanes[member.key]
                lane.waiting.remove(member)
                if member.is_first:  # nobody else looks after those behind it
                    batches = self._batches(member.key, lane)
        self._start(batches)
        if batch is not None and batch.call is not None and batch.abandoned:
            batch.call.cancel()
        return None

    def abandon(self, member: Member) -> None:
        """Give a call up that is not to be sent either."""
        if self.leave(member) is Verdict.ALONE:
            self.finish(member.key)

    def answered(self, batch: Batch, response: inference_service_pb2.PredictResponse) -> None:
        """Give each member its part of an answer."""
        try:
            parts = batch.split(response)
        except Exception as error:  # whatever is wrong with it, each is to see what its own answer would have been
            self.failed(batch, error)
            return
        self._settle(batch, parts)

    def failed(self, batch: Batch, error: BaseException) -> None:
        """Tell each member of an error that concerns them all; else have each sent alone, to get its own."""
        if isinstance(error, _COMMON):
            self._settle(batch, [error.with_traceback(None)] * len(batch.members))
            return
        if not isinstance(error, _USUAL):
            self._forget(batch.key, batch.spec)
        self._settle(batch, [Verdict.ALONE] * len(batch.members))

    def learn(self, model: str, version: str | None, info: ModelInfo | None) -> None:
        """Take the server's description of a model; None: there is none."""
        spec = Spec(info, self._max_bytes) if info is not None else None
        with self._lock:
            self._specs[model, version] = spec if spec and spec.batches else monotonic() + _LONG_REST

    def _lane(self, key: Key) -> _Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        return lane

    def _spec(self, key: Key, lane: _Lane) -> Spec | None:
        """Return what the model allows where calls of a key may be joined; the server is asked if that is not known."""
        known = self._specs.get(key[:2], 0.0)
        if isinstance(known, Spec):
            if lane.checked is None or lane.checked[0] is not known:
                lane.checked = known, known.takes(key)
            return known if lane.checked[1] else None
        with self._lock:
            due = self._specs.get(key[:2], 0.0) == known <= monotonic()
            if due:
                if len(self._specs) >= _MOST_SPECS:
                    self._specs.clear()
                self._specs[key[:2]] = math.inf  # nobody else asks
        if due:
            self._ask(key.model, key.version)
        return None

    def _forget(self, key: Key, spec: Spec) -> None:
        """Join nothing for a while, then ask again, unless that has begun."""
        with self._lock:
            if self._specs.get(key[:2]) is spec:
                self._specs[key[:2]] = monotonic() + _REST

    def _batches(self, key: Key, lane: _Lane) -> list[Batch]:
        """Return all that waits as batches, which count as being out."""
        batches: list[Batch] = []
        waiting, lane.waiting = lane.waiting, []
        for member in waiting:
            if not batches or not batches[-1].add(member):
                batches.append(Batch(key, member))
        for batch in batches:
            if len(batch.members) == 1:
                batch.members[0].batch, batch.members[0].outcome = None, Verdict.ALONE
            lane.add(len(batch.members))
        return batches

    def _start(self, batches: list[Batch]) -> None:
        for batch in batches:
            if len(batch.members) == 1:
                batch.members[0].wake()
            else:
                self._send(batch)

    def _settle(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """Tell those members that have not left what became of them, and send what waits: the batch is out no more."""
        told = []
        with self._lock:
            lane = self._lanes[batch.key]
            for member, outcome in zip(batch.members, outcomes, strict=True):
                member.batch = None  # else they would hold each other, and their arrays, until a collection
                if member.outcome is None:
                    member.outcome = outcome
                    told.append(member)
                    if outcome is Verdict.ALONE:
                        lane.add(1)
        for member in told:
            member.wake()
        self.finish(batch.key, len(batch.members))
