"""The measurements of one load."""

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxserve._bench.cpu import Use
from onnxserve._bench.load import Load, Rate
from onnxserve.errors import OnnxserveError
from onnxserve.v1 import inference_service_pb2

LATE = 0.001
"""A request of an open loop that is sent more than this many seconds after it was due is late. Its latency includes the
delay."""

_KEPT_UP = 0.95  # of the rate


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds from the time a request was due until its answer arrived, over all answers but errors."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The figures of the server's receipts.

    Rows and requests are means over the server's runs: a run that answered eight requests counts once. Times are means
    over requests, in microseconds.
    """

    rows: float
    most_rows: int
    requests: float
    queue_us: float
    batch_wait_us: float
    compute_us: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The measurements of one load.

    Every request that was due in the time of the measurement is counted once: answered, failed or dropped.

    Attributes:
        load: the load.
        complete: whether the measurement ran to its end; else it was interrupted, and requests in flight are left out.
        requests: the number of requests that were due.
        succeeded: the number that were answered.
        errors: the number that failed, by status code.
        messages: the first message of each status code.
        dropped: the number of an open loop that were never sent, because too many were in flight.
        late: the number of an open loop that were sent late; the other figures include them.
        worst_delay_ms: the longest delay of a late request, in milliseconds.
        requests_per_second: answers, without errors, over the time in which they arrived.
        rows_per_second: the rows of these answers per second.
        latency: the latencies; None if no request was answered.
        runs: the figures of the receipts; None if no request was answered.
        cpu: the CPU use of this process and of the machine.
    """

    load: Load
    complete: bool
    requests: int
    succeeded: int
    errors: Mapping[str, int]
    messages: Mapping[str, str]
    dropped: int
    late: int
    worst_delay_ms: float
    requests_per_second: float
    rows_per_second: float
    latency: Latency | None
    runs: Runs | None
    cpu: Use

    @property
    def failed(self) -> int:
        """The number of failed requests, of all status codes."""
        return sum(self.errors.values())

    @property
    def rows_in_server(self) -> float | None:
        """The mean number of rows in the server at a time, by Little's law; None if no request was answered."""
        if self.runs is None:
            return None
        return self.rows_per_second * (self.runs.queue_us + self.runs.batch_wait_us + self.runs.compute_us) / 1e6

    @property
    def fell_behind(self) -> bool:
        """Whether answers arrived at less than the rate of an open loop, so that latency grows with time."""
        return isinstance(self.load, Rate) and self.requests_per_second < _KEPT_UP * self.load.per_second


class Recorder:
    """Collects the outcomes of requests during a measurement."""

    def __init__(self) -> None:
        self.latencies = array("d")  # seconds
        self.errors: Counter[str] = Counter()
        self.messages: dict[str, str] = {}
        self.dropped = 0
        self.late = 0
        self.worst_delay = 0.0
        self._most_rows = self._runs = self._rows = 0.0
        self._queue_us = self._batch_wait_us = self._compute_us = 0

    def record(self, outcome: inference_service_pb2.Receipt | OnnxserveError, seconds: float) -> None:
        """Record the outcome of a request, `seconds` after it was due."""
        if isinstance(outcome, OnnxserveError):
            self.errors[outcome.code.name] += 1
            self.messages.setdefault(outcome.code.name, str(outcome))
            return
        self.latencies.append(seconds)
        weight = 1 / max(1, outcome.batch_requests)  # so that each run counts once
        self._runs += weight
        self._rows += outcome.batch_rows * weight
        self._most_rows = max(self._most_rows, outcome.batch_rows)
        self._queue_us += outcome.queue_us
        self._batch_wait_us += outcome.batch_wait_us
        self._compute_us += outcome.compute_us

    def sent(self, delay: float) -> None:
        """Record the delay of a request that was sent `delay` seconds after it was due."""
        self.late += delay > LATE
        self.worst_delay = max(self.worst_delay, delay)

    @property
    def ended(self) -> int:
        """The number of requests that were answered, failed or were dropped."""
        return len(self.latencies) + self.errors.total() + self.dropped

    def sample(self, load: Load, *, seconds: float, rows: int, cpu: Use, complete: bool) -> Sample:
        """Return the measurements.

        Args:
            load: the load.
            seconds: the time in which the outcomes arrived.
            rows: the rows of each request.
            cpu: see Sample.
            complete: see Sample.
        """
        rate = len(self.latencies) / seconds if seconds > 0 else 0.0
        return Sample(
            load=load,
            complete=complete,
            requests=self.ended,
            succeeded=len(self.latencies),
            errors=dict(self.errors),
            messages=dict(self.messages),
            dropped=self.dropped,
            late=self.late,
            worst_delay_ms=self.worst_delay * 1e3,
            requests_per_second=rate,
            rows_per_second=rate * rows,
            latency=self._latency(),
            runs=self._run_figures(),
            cpu=cpu,
        )

    def _latency(self) -> Latency | None:
        if not self.latencies:
            return None
        ms = np.frombuffer(self.latencies) * 1e3
        p50, p90, p99 = map(float, np.percentile(ms, [50, 90, 99]))
        return Latency(mean=float(ms.mean()), p50=p50, p90=p90, p99=p99, max=float(ms.max()))

    def _run_figures(self) -> Runs | None:
        number = len(self.latencies)
        if not number:
            return None
        return Runs(
            rows=self._rows / self._runs,
            most_rows=int(self._most_rows),
            requests=number / self._runs,
            queue_us=self._queue_us / number,
            batch_wait_us=self._batch_wait_us / number,
            compute_us=self._compute_us / number,
        )
