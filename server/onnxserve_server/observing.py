"""What an observer of the server is called with. The server also runs without one; then none of this is called."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from onnxserve_server.core import RequestInfo, Result, Trace
from onnxserve_server.errors import ServeError
from onnxserve_server.spec import ModelSpec

PAGE_METHOD = "Page"
"""The method, in metrics and logs, of requests that come by HTTP, POST /api/predict, as the page's form sends them."""


class Run(NamedTuple):
    """One run of a model that is over. Times are the clock's, in seconds.

    Attributes:
        spec: the model's.
        rows: how many rows were run.
        requests: how many jobs shared the run.
        wasted_rows: rows of jobs that had ended before the run was over; all rows if it failed.
        row_seconds: seconds from a row's arrival to the end of the run, summed over the rows; 0 if the jobs run again.
        free_since: when its slot had become free.
        started: when the run began.
        seconds: how long it took.
        traces: the traces of its jobs; most have none.
    """

    spec: ModelSpec
    rows: int
    requests: int
    wasted_rows: int
    row_seconds: float
    free_since: float
    started: float
    seconds: float
    traces: Sequence[Trace]


class CheckResult(StrEnum):
    """What a spot check found: a row of a batch, run again without its neighbours."""

    SAME = "same"  # alone it gets what the batch gave it
    ROUNDING = "rounding"  # it differs alone, but not with other neighbours: kernels round by the batch size
    RANDOM = "random"  # it differs from run to run
    FAILED = "failed"  # it cannot be run alone
    DEPENDENT = "dependent"  # its neighbours have changed it


class SpotCheck(NamedTuple):
    """A spot check that is over.

    Attributes:
        spec: the model's.
        result: what it found.
        seconds: how long it took.
    """

    spec: ModelSpec
    result: CheckResult
    seconds: float


class Observer(Protocol):
    """Notes what happens to requests. Called from any thread, for every request: must not raise, block or take long."""

    def begin(self, metadata: Iterable[tuple[str, str | bytes]], arrived: float) -> Trace | None:
        """Return the trace of a request that arrives with this metadata; None if it is not traced."""
        ...

    def on_answer(self, info: RequestInfo, code: str, outcome: Result | ServeError) -> None:
        """Note the end of a request: the name of its status code, and its outcome (of several steps, the last one)."""
        ...

    def on_run(self, run: Run) -> None:
        """Note that a run is over and its jobs have ended."""
        ...

    def on_spot_check(self, check: SpotCheck) -> None:
        """Note that a spot check is over."""
        ...

    def on_call_end(self, method: str, code: str, seconds: float) -> None:
        """Note the end of a call that carried many requests."""
        ...
