"""What the server tells those who watch it. It serves without anybody watching; then none of this is called."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from onnxserve_server.core import RequestInfo, Result, Trace
from onnxserve_server.errors import ServeError
from onnxserve_server.spec import ModelSpec

PAGE = "Page"
"""The method of requests that come by HTTP, POST /api/predict: those of the status page's form."""


class Run(NamedTuple):
    """One run of a model that is over, for observers. Times are the clock's, in seconds.

    Attributes:
        spec: the model's.
        rows: those that were run.
        requests: how many jobs shared the run.
        wasted_rows: those of jobs that had ended before the run was over; all of them when it failed.
        row_seconds: of each row the seconds from its arrival to here, summed; 0 where the jobs are run again.
        free_since: when its slot had become free.
        started: when the run began.
        seconds: how long it took.
        traces: those of its jobs that have one.
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


class Observer(Protocol):
    """Is told what happens. From any thread, for every request: none of this may raise, block or take long."""

    def begin(self, metadata: Iterable[tuple[str, str | bytes]], arrived: float) -> Trace | None:
        """Return the trace of a request that arrives with such metadata; None: it is not traced."""
        ...

    def on_answer(self, asked: RequestInfo, code: str, outcome: Result | ServeError) -> None:
        """Note the end of a request: its status code by name, and its outcome (the last one, of several steps)."""
        ...

    def on_run(self, run: Run) -> None:
        """Note that a run is over and its jobs have ended."""
        ...

    def on_call_end(self, method: str, code: str, seconds: float) -> None:
        """Note the end of a call that carried many requests."""
        ...
