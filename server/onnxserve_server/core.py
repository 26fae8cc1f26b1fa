"""The nouns of a request on its way from the edge to the runtime and back.

    Request   what the edge has decoded                      (hop 1, receive)
    Job       a request that passed admission                (hops 2 and 3, admit and queue)
    Batch     jobs that share one run, see scheduling/batch  (hops 4 and 5, batch and run)
    Result    a job's own rows of the outputs, and a Receipt (hops 6 and 7, scatter and reply)

Times are seconds of time.monotonic(); only receipts count in microseconds.
"""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from onnxserve.tensor import Array, DataType
from onnxserve_server.errors import Cancelled, ServeError
from onnxserve_server.spec import TensorSpec

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
"""Tells the time in seconds; time.monotonic in production, a hand-moved one in tests."""


class WireTensor(NamedTuple):
    """A tensor as it came: nothing in it has been checked."""

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    data: bytes
    strings: Sequence[bytes]


class Trace(Protocol):
    """A traced request's notes on its way.

    Attributes:
        trace_id: 32 hexadecimal digits.
    """

    trace_id: str

    def mark(self, hop: str) -> None:
        """Note that a hop begins now."""
        ...

    def answered_by_http(self, status: int) -> None:
        """Note the HTTP status of the answer, before the end of a request that came by HTTP."""
        ...

    def end(self, asked: "RequestInfo", code: str, outcome: "Result | ServeError") -> None:
        """Note the end of the request, once."""
        ...


class RequestInfo(Protocol):
    """An answered request, as observers see it.

    Attributes:
        method: "Predict", "Stream" or observing.PAGE_METHOD.
        model: the model asked for, as the caller said, known or not.
        version: the same of its version; "" for the newest.
        request_id: the caller's name for the request, "" for none.
        arrived: when its message was taken.
        trace: notes on its way; None for most.
    """

    method: str
    model: str
    version: str
    request_id: str
    arrived: float
    trace: Trace | None


class Request(NamedTuple):
    """A decoded request. `deadline` is a time of the engine's clock, inf for none; empty `outputs` means all."""

    model: str
    version: str
    inputs: Sequence[WireTensor]
    outputs: Sequence[str] = ()
    request_id: str = ""
    priority: int = 0
    deadline: float = math.inf
    trace: Trace | None = None


class Receipt(NamedTuple):
    """Where a job's time went, in whole microseconds, and what it was run with."""

    queue_us: int
    batch_wait_us: int
    compute_us: int
    batch_rows: int
    batch_requests: int
    provider: str


class Result(NamedTuple):
    """The arrays of the outputs that the job wants, in its order, the version that gave them, and the receipt."""

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
    """A request's part in a sequence, or its several steps: whatever makes it more than one run that stands alone.

    Attributes:
        sequence: the sequence's name; "" for none.
        end: whether the sequence is over afterwards.
        snapshot: whether the state is wanted with the answer.
        state: what to start the sequence with.
        handoff: whether the state is wanted when the server stops.
        max_steps: most runs, each on the outputs of the one before; None: one run.
        stop: what ends them before.
    """

    sequence: str = ""
    end: bool = False
    snapshot: bool = False
    state: Snapshot | None = None
    handoff: bool = False
    max_steps: int | None = None
    stop: Stop | None = None


class StepResult(NamedTuple):
    """A step's result, the state after it where that was asked for, its number, and whether it is the last."""

    result: Result
    state: Sequence[tuple[TensorSpec, Array]] | None
    number: int
    final: bool


Done = Callable[[Result | ServeError], None]
"""Called by a job, once, when it ends. From any thread; it must not raise or block."""


class Job:
    """An admitted request. It ends exactly once: with a result, an error, or because its caller left.

    Attributes:
        inputs: one array an input of the model, in the model's order.
        outputs: the outputs wanted, in the caller's order.
        answered: how many of the outputs the caller gets; the server keeps those after them.
        rows: rows of the batch axis; 1 for a model that is not batched.
        nbytes: bytes of its inputs.
        key: jobs with equal keys may share a batch; made of the shape of a row and the values of shared inputs.
        rank: the queue's order, lowest first: the time of arrival, moved ahead by the job's priority.
        place: where the batcher has it (a bucket, a batch, nowhere); the batcher's alone.
        trace: notes on its way; None for most.
    """

    __slots__ = (
        "_done",
        "_end",
        "answered",
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
        trace: Trace | None = None,
        answered: int | None = None,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.answered = len(outputs) if answered is None else answered
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
    def has_ended(self) -> bool:
        """Whether the job has ended."""
        return self._end.locked()

    def end(self, outcome: Result | ServeError) -> bool:
        """End the job, unless it has ended; return whether this call was the one that ended it."""
        if not self._end.acquire(blocking=False):  # a lock taken once and never given back: the atomic "first one wins"
            return False
        done, self._done = self._done, _nothing  # the callback holds the call, which holds the job
        try:
            done(outcome)
        except Exception:  # a defect of one caller's edge must not end the thread that all callers wait for
            logger.exception("an outcome could not be delivered")
        return True

    def discard(self) -> bool:
        """End the job without calling back; like end(), return whether this call was the one that ended it."""
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
