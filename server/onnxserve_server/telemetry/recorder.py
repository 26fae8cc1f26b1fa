"""Counts requests and runs. With the calls that lead here it costs about 2 µs a request, 1 µs of it in on_answer().

A histogram of OpenTelemetry's SDK takes about 8 µs a value (opentelemetry-sdk 1.45.2, CPython 3.11, measured on a
machine where a whole small request takes 50), and we have four of them. So figures are only appended to lists and
deques, which is atomic, and folded into counts many at a time, by numpy: by the thread that notes the thousandth, or
that collects. Until then only numbers and short names are kept, nothing of the request itself.
"""

import functools
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import numpy as np

from onnxserve_server.core import Clock, Receipt, RequestInfo, Result, Trace
from onnxserve_server.errors import ServeError
from onnxserve_server.observing import PAGE_METHOD, Run, SpotCheck
from onnxserve_server.spec import ModelSpec
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.catalogue import Instrument
from onnxserve_server.telemetry.metric_data import Distribution, Exemplar, Labels, Metric
from onnxserve_server.telemetry.slow_requests import SlowRequest, SlowRequests
from onnxserve_server.telemetry.tracing import Span, Tracing

logger = logging.getLogger(__name__)

OTHER = "_OTHER"
"""Stands for every model that does not exist, whatever name callers use: else they could make series without end."""

_MAX_UNFOLDED = 1024
_LOST = "an event is missing from the metrics"
_SERVICE = "onnxserve.v1.InferenceService/"
_PREDICT = _SERVICE + "Predict"
_OK = "OK"
_FAULTS = {
    "INTERNAL",
    "UNKNOWN",
    "DATA_LOSS",
}  # of the server or the model; other codes are the caller's fault, or load
_T = TypeVar("_T")
_P = ParamSpec("_P")


def _harmless(note: Callable[_P, None]) -> Callable[_P, None]:
    """Keep a defect of ours from the threads that answer callers: it costs figures, and a line in the log."""

    @functools.wraps(note)
    def noted(*arguments: _P.args, **more: _P.kwargs) -> None:
        try:
            note(*arguments, **more)
        except Exception:
            logger.exception(_LOST)

    return noted


_Kind = tuple[str, str, str, str, str]  # method, model, version, code, reason ("" of a success)
_FIGURES = 3  # of a request: seconds, and the microseconds of its receipt in the queue and for its batch
_RunFigures = tuple[int, int, float, float, float]  # rows, requests, seconds, wasted seconds, seconds of rows


class Recorder:
    """Implements observing.Observer.

    Args:
        clock: the engine's.
        find: returns the spec of the version that a caller names; None if there is none, so that it counts as OTHER.
        tracing: traces requests; None: no request is traced.
    """

    def __init__(
        self, clock: Clock, find: Callable[[str, str], ModelSpec | None], tracing: Tracing | None = None
    ) -> None:
        self._clock = clock
        self._tracing = tracing
        self._find = find
        self._answers: dict[_Kind, list[float]] = {}  # the figures of each request, one after the other
        self._exemplars: deque[tuple[Labels, Exemplar]] = deque()
        self._runs: deque[tuple[Labels, _RunFigures]] = deque()
        self._calls: deque[tuple[str, str, float]] = deque()
        self._bursts: deque[float] = deque()
        self._lock = threading.Lock()  # guards the counters and distributions
        self._counters: dict[Instrument, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._distributions: dict[Instrument, dict[Labels, Distribution]] = defaultdict(dict)
        self.slow = SlowRequests()

    def begin(self, metadata: Iterable[tuple[str, str | bytes]], arrived: float) -> Trace | None:
        """See Observer."""
        return None if self._tracing is None else self._tracing.begin(metadata, arrived)

    def on_answer(self, info: RequestInfo, code: str, outcome: Result | ServeError) -> None:
        """See Observer."""
        try:  # what @_harmless does, without its call
            seconds = self._clock() - info.arrived
            receipt: Receipt | None = None
            if isinstance(outcome, Result):
                receipt = outcome.receipt
                kind = (info.method, outcome.model, outcome.version, code, "")
                figures = (seconds, receipt.queue_us, receipt.batch_wait_us)
            else:  # looked up at once: a caller's name for a model may have megabytes
                kind = (info.method, *self._labels(info.model, info.version), code, outcome.reason)
                figures = (seconds, 0, 0)
            trace = info.trace
            if trace is not None:
                trace.end(info, code, outcome)
            if code in _FAULTS or logger.isEnabledFor(logging.DEBUG):
                _log(info, kind, seconds)
            if seconds > self.slow.bound or time.time() > self.slow.until:
                self.slow.offer(_slow(info, kind, seconds, receipt))
            noted = self._answers.get(kind)
            if noted is None:
                noted = self._answers.setdefault(kind, [])
            noted += figures  # atomic: other threads see all of them or none
            if trace is not None:
                self._note_exemplar(kind, seconds, trace)
            if len(noted) >= _MAX_UNFOLDED * _FIGURES:
                self._fold()
        except Exception:
            logger.exception(_LOST)

    @_harmless
    def on_run(self, run: Run) -> None:
        """See Observer."""
        spec = run.spec
        rows = max(run.rows, 1)
        wasted = run.seconds * run.wasted_rows / rows
        self._runs.append(((spec.name, spec.version), (rows, run.requests, run.seconds, wasted, run.row_seconds)))
        if run.traces and self._tracing is not None:
            self._tracing.batch(run)
        if len(self._runs) >= _MAX_UNFOLDED:  # with many models, or many steps, few requests may have ended
            self._fold()

    @_harmless
    def on_spot_check(self, check: SpotCheck) -> None:
        """See Observer."""
        labels = check.spec.name, check.spec.version
        self.count(catalogue.SPOT_CHECKS, *labels, check.result)
        self.count(catalogue.SPOT_CHECK_TIME, *labels, by=check.seconds)

    def on_call_end(self, method: str, code: str, seconds: float) -> None:
        """See Observer."""
        self._calls.append((method, code, seconds))
        if len(self._calls) >= _MAX_UNFOLDED:
            self._fold()

    def note_burst(self, seconds: float) -> None:
        """Note how long the lane accepted no calls."""
        self._bursts.append(seconds)
        if len(self._bursts) >= _MAX_UNFOLDED:  # health checks make bursts, too
            self._fold()

    def count(self, instrument: Instrument, *labels: str, by: float = 1.0) -> None:
        """Add to a counter of events that are rare."""
        with self._lock:
            self._counters[instrument][labels] += by

    def collect(self) -> list[Metric]:
        """Return all counters and histograms as they are now."""
        self._fold()
        with self._lock:
            counters = [Metric(one, list(points.items())) for one, points in self._counters.items()]
            histograms = [
                Metric(one, [(labels, seen.copy()) for labels, seen in points.items()])
                for one, points in self._distributions.items()
            ]
        return counters + histograms

    def compute_seconds(self) -> dict[Labels, float]:
        """Return the run time of each model and version so far."""
        self._fold()
        with self._lock:
            return {labels: seen.total for labels, seen in self._distributions[catalogue.COMPUTE_DURATION].items()}

    @_harmless
    def _fold(self) -> None:
        with self._lock:
            for kind, figures in list(self._answers.items()):
                self._fold_answers(kind, figures)
            for labels, exemplar in _drain(self._exemplars):
                self._distribution(catalogue.REQUEST_DURATION, labels).add_exemplar(exemplar)
            self._fold_runs(_drain(self._runs))
            for method, code, seconds in _drain(self._calls):
                self._add(catalogue.CALL_DURATION, (_SERVICE + method, code), np.array([seconds]))
            if bursts := _drain(self._bursts):
                self._add(catalogue.LANE_LAG, (), np.array(bursts))

    def _fold_answers(self, kind: _Kind, figures: list[float]) -> None:
        count = len(figures)
        if not count:
            return
        taken = figures[:count]
        del figures[:count]  # there may be more by now
        seconds, queued_us, waited_us = np.array(taken, float).reshape(-1, _FIGURES).T
        _, model, version, code, reason = kind
        method = _method(kind)
        self._counters[catalogue.REQUESTS][model, version, method, code, reason] += len(seconds)
        if method == _PREDICT:  # a stream is one call, see on_call_end()
            self._add(catalogue.CALL_DURATION, (method, code), seconds)
        if code == _OK:
            self._add(catalogue.REQUEST_DURATION, (model, version, method), seconds)
            self._add(catalogue.QUEUE_DURATION, (model, version), queued_us / 1e6)
            self._add(catalogue.BATCH_WAIT_DURATION, (model, version), waited_us / 1e6)

    def _fold_runs(self, runs: list[tuple[Labels, _RunFigures]]) -> None:
        groups: dict[Labels, list[_RunFigures]] = defaultdict(list)
        for labels, figures in runs:
            groups[labels].append(figures)
        for labels, group in groups.items():
            rows, requests, seconds, wasted, row_seconds = np.array(group).T
            self._add(catalogue.COMPUTE_DURATION, labels, seconds)
            self._add(catalogue.BATCH_ROWS, labels, rows)
            self._counters[catalogue.ROWS_RUN][labels] += float(rows.sum())
            self._counters[catalogue.BATCH_REQUESTS][labels] += float(requests.sum())
            self._counters[catalogue.WASTED][labels] += float(wasted.sum())
            self._counters[catalogue.ROW_TIME][labels] += float(row_seconds.sum())

    def _labels(self, model: str, version: str) -> tuple[str, str]:
        spec = self._find(model, version)
        return (OTHER, OTHER) if spec is None else (spec.name, spec.version)

    def _add(
        self, instrument: Instrument, labels: Labels, values: "np.ndarray[tuple[int], np.dtype[np.float64]]"
    ) -> None:
        self._distribution(instrument, labels).add(values)

    def _distribution(self, instrument: Instrument, labels: Labels) -> Distribution:
        found = self._distributions[instrument].get(labels)
        if found is None:
            found = self._distributions[instrument][labels] = Distribution(instrument.bounds)
        return found

    def _note_exemplar(self, kind: _Kind, seconds: float, trace: Trace) -> None:
        _, model, version, code, _ = kind
        if code == _OK and isinstance(trace, Span) and trace.span_id:
            exemplar = Exemplar(seconds, time.time(), trace.trace_id, trace.span_id)
            self._exemplars.append(((model, version, _method(kind)), exemplar))


def _method(kind: _Kind) -> str:
    """Return the method's name in metrics."""
    return PAGE_METHOD if kind[0] == PAGE_METHOD else _SERVICE + kind[0]


def _log(info: RequestInfo, kind: _Kind, seconds: float) -> None:
    """Log the end of one request."""
    method, model, version, code, reason = kind
    fields = {
        "method": method,
        "model": model,
        "version": version,
        catalogue.ERROR: reason,
        "request_id": info.request_id,
        "trace_id": "" if info.trace is None else info.trace.trace_id,
        "seconds": round(seconds, 6),
    }
    if code in _FAULTS:
        logger.warning("a request failed: %s", code, extra=fields)
    else:
        logger.debug("a request ended: %s", code, extra=fields)


def _slow(info: RequestInfo, kind: _Kind, seconds: float, receipt: Receipt | None) -> SlowRequest:
    """Return the entry of a slow request for the page."""
    _, model, version, code, _ = kind
    return SlowRequest(time.time(), model, version, _method(kind), code, seconds, receipt, info.request_id)


def _drain(queue: deque[_T]) -> list[_T]:
    """Take out the items that the queue has now; other threads may go on appending."""
    return [queue.popleft() for _ in range(len(queue))]
