"""The nouns of the server: what a request is on its way from the edge to the runtime and back.

    Request   what the edge has decoded                      (hop 1, receive)
    Job       a request that passed admission                (hops 2 and 3, admit and queue)
    Batch     jobs that share one run                        (hops 4 and 5, batch and run)
    Result    a job's own rows of the outputs, and a Receipt (hops 6 and 7, scatter and reply)

Times are seconds of time.monotonic(); only receipts count in microseconds.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from onnxserve.tensor import Array, DataType
from onnxserve_server.errors import Cancelled, ServeError

if TYPE_CHECKING:
    from onnxserve_server.observing import Trace

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
"""Tells the time in seconds; time.monotonic in production, a hand-moved one in tests."""

_Size = TypeVar("_Size", int, int | str)


class WireTensor(NamedTuple):
    """A tensor as it came: nothing in it has been checked."""

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    data: bytes
    strings: Sequence[bytes]


class Request(NamedTuple):
    """A decoded request. `deadline` is a time of the engine's clock, inf for none; empty `outputs` means all."""

    model: str
    version: str
    inputs: Sequence[WireTensor]
    outputs: Sequence[str] = ()
    request_id: str = ""
    priority: int = 0
    deadline: float = math.inf
    trace: "Trace | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One input or output of a model. In `shape` an int is a fixed size, a str names a free axis ("" if nameless).

    `batch_axis` is the axis that rows lie along; None for an input without one, which all rows of a run share.
    """

    name: str
    data_type: DataType
    shape: tuple[int | str, ...]
    labels: tuple[str, ...] = ()
    batch_axis: int | None = 0

    @property
    def has_free_axes(self) -> bool:
        """Whether an axis beside the batch axis is free."""
        return any(isinstance(size, str) for size in self.row_of(self.shape))

    def row_of(self, shape: tuple[_Size, ...]) -> tuple[_Size, ...]:
        """Return a shape of this tensor without the batch axis; all of it if shared."""
        axis = self.batch_axis
        return shape if axis is None else shape[:axis] + shape[axis + 1 :]

    def cut(self, array: Array, first: int, last: int) -> Array:
        """Return the rows from `first` up to `last` of an array of this tensor, as a view; all of it if shared."""
        if self.batch_axis is None:
            return array
        return array[(*[slice(None)] * self.batch_axis, slice(first, last))]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPolicy:
    """How the requests for a model are put together and how many may wait.

    Attributes:
        enabled: whether requests share runs; `reason` says why not.
        max_rows: most rows of one run; at least 1.
        max_delay: longest wait of the oldest job for batch-mates while an executor is free, in seconds.
        max_queue_rows: most rows that may wait.
        max_queue_bytes: most bytes of input that may wait.
        ageing: seconds of waiting that are worth one step of priority.
        split: whether a request of more than max_rows is split into several runs (else it is refused).
    """

    enabled: bool
    reason: str = ""
    max_rows: int = 64
    max_delay: float = 0.0
    max_queue_rows: int = 4096
    max_queue_bytes: int = 256 << 20
    ageing: float = 1.0
    split: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class StatePair:
    """An input that the server fills with an output of the sequence's step before.

    `initial`: the value of every element at the first step, or one row of them, without its batch axis.
    """

    input: TensorSpec
    output: TensorSpec
    initial: float | Array = 0.0


class Feedback(NamedTuple):
    """An output that is an input of the next run of a request with several steps."""

    output: TensorSpec
    input: TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencePolicy:
    """How much state is kept: for `most` sequences at a time, each for `idle` seconds after its last step."""

    most: int = 4096
    idle: float = 300.0


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model takes and gives, how it is batched and what it runs on.

    `steady`: its run time depends on the number of rows alone, not on what is in them.
    `state`: what makes it stateful; empty for most models.
    `feedback`: what lets it run several steps for one request; empty for most models.
    """

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batching: BatchPolicy
    requested_providers: tuple[str, ...]
    providers: tuple[str, ...]
    provider_options: Mapping[str, str] = field(default_factory=dict)
    instances: int = 1
    threads: int = 1
    steady: bool = True
    state: tuple[StatePair, ...] = ()
    sequences: SequencePolicy = SequencePolicy()
    feedback: tuple[Feedback, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    @property
    def leading(self) -> bool:
        """Whether the rows of every input and output lie along its first axis, as they mostly do."""
        return all(tensor.batch_axis == 0 for tensor in self.inputs + self.outputs)


class Receipt(NamedTuple):
    """Where a job's time went, in whole microseconds, and what it was run with."""

    queue_us: int
    batch_wait_us: int
    compute_us: int
    batch_rows: int
    batch_requests: int
    provider: str


class Result(NamedTuple):
    """The arrays of the outputs that the job wants, in its order, who gave them, and the receipt."""

    model: str
    version: str
    outputs: Sequence[tuple[TensorSpec, Array]]
    receipt: Receipt


class Snapshot(NamedTuple):
    """The state of a sequence as it came: nothing in it has been checked."""

    model: str
    version: str
    tensors: Sequence[WireTensor]


class Stop(NamedTuple):
    """An output that ends the steps of a request: when all its elements are `value`, or not zero where that is None."""

    output: str
    value: float | None = None


class Step(NamedTuple):
    """What makes a request more than one run that stands alone.

    Attributes:
        sequence: the sequence's name; "" for none.
        end: whether the sequence is over afterwards.
        snapshot: whether the state is wanted with the answer.
        state: what to start the sequence with.
        handoff: whether the state is wanted when the server stops.
        most: most runs, each on the outputs of the one before; None: one run.
        stop: what ends them before.
    """

    sequence: str = ""
    end: bool = False
    snapshot: bool = False
    state: Snapshot | None = None
    handoff: bool = False
    most: int | None = None
    stop: Stop | None = None


class StepResult(NamedTuple):
    """A step's result, the state after it where that was asked for, its number, and whether it is the last."""

    result: Result
    state: Sequence[tuple[TensorSpec, Array]] | None
    number: int
    final: bool


Done = Callable[[Result | ServeError], None]
"""What a job calls, once, when it ends. From any thread; it must not raise or block."""


class Job:
    """An admitted request. It ends exactly once: with a result, an error, or because its caller left.

    Attributes:
        inputs: one array an input of the model, in the model's order.
        outputs: the outputs wanted, in the caller's order.
        rows: rows of the batch axis; 1 for a model that is not batched.
        nbytes: bytes of its inputs.
        key: jobs with equal keys may share a batch; it tells the shape of a row and what is in shared inputs.
        rank: the queue's order, lowest first: the time of arrival, moved ahead by the job's priority.
        place: where the batcher has it (a bucket, a batch, nowhere); the batcher's alone.
        trace: what is noted of this very request; None for most.
    """

    __slots__ = (
        "_done",
        "_end",
        "arrived",
        "deadline",
        "inputs",
        "key",
        "leave",
        "nbytes",
        "outputs",
        "place",
        "priority",
        "rank",
        "rows",
        "trace",
    )

    def __init__(
        self,
        *,
        inputs: tuple[Array, ...],
        outputs: tuple[TensorSpec, ...],
        rows: int,
        nbytes: int,
        key: object,
        arrived: float,
        deadline: float,
        priority: int,
        rank: float,
        done: Done,
        trace: "Trace | None" = None,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.nbytes = nbytes
        self.key = key
        self.arrived = arrived
        self.deadline = deadline
        self.priority = priority
        self.rank = rank
        self.trace = trace
        self.place: object = None
        self.leave: Callable[[Job], None] = _nowhere
        self._done = done
        self._end = threading.Lock()

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self._end.locked()

    def end(self, outcome: Result | ServeError) -> bool:
        """End the job, unless it has ended; tell whether this call was the one that ended it."""
        if not self._end.acquire(blocking=False):  # a lock taken once and never given back: the atomic "first one wins"
            return False
        done, self._done = self._done, _nothing  # the callback holds the call, which holds the job
        try:
            done(outcome)
        except Exception:  # a defect of one caller's edge must not end the thread that all callers wait for
            logger.exception("an outcome could not be delivered")
        return True

    def discard(self) -> bool:
        """End the job without telling anybody; like end(), tell whether this call was the one that ended it."""
        return self._end.acquire(blocking=False)

    def cancel(self) -> None:
        """End the job because its caller left, and take it out of its queue or batch."""
        self.withdraw(Cancelled("the caller left"))

    def withdraw(self, error: ServeError) -> None:
        """End the job with `error` before its run is over, and take it out of its queue or batch."""
        if self.end(error):
            self.leave(self)


def _nowhere(_: Job) -> None:
    """Stand for the queue of a job that is in none."""


def _nothing(_: Result | ServeError) -> None:
    """Stand for the callback of a job that has ended."""


class Slot:
    """The right to run one batch at a time, and the bed of the executor that owns it.

    While the executor sleeps, another thread may run a batch in its slot: there are never more runs than slots.
    `free_since` is when the slot's last run ended. The bed is a bare lock: a Condition costs several times as much.
    """

    __slots__ = ("_lock", "free_since")

    def __init__(self) -> None:
        self.free_since = 0.0
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        """Let sleep() return."""
        self._lock.release()

    def sleep(self, seconds: float | None) -> bool:
        """Sleep until wake() or for so many seconds; tell whether it was wake()."""
        return self._lock.acquire(timeout=-1 if seconds is None else seconds)


class Batch:
    """Jobs that share one run, in the order of their rows, and the slot that they run in.

    When the last member leaves, the run is stopped.
    """

    __slots__ = ("_stop", "abandoned", "free_since", "jobs", "live", "rows", "slot")

    def __init__(self, jobs: list[Job], rows: int, slot: Slot) -> None:
        self.jobs = jobs
        self.rows = rows
        self.live = len(jobs)
        self.slot = slot
        self.free_since = slot.free_since
        self.abandoned = False
        self._stop: Callable[[], None] | None = None

    def arm(self, stop: Callable[[], None]) -> None:
        """Name the call that stops the run. It is made at once when everybody has left already."""
        self._stop = stop
        if self.abandoned:
            stop()

    def abandon(self) -> None:
        """Stop the run: nobody waits for it."""
        self.abandoned = True
        if self._stop is not None:
            self._stop()
