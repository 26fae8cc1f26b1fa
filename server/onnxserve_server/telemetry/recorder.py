"""Counts requests and runs, at about a microsecond a request.

A histogram of OpenTelemetry's SDK takes about 8 µs a value (opentelemetry-sdk 1.45.2, CPython 3.11, measured on a
machine where a whole small request takes 50), and we have four of them. So what happens is only noted, in deques whose
append() is atomic, and folded into counts many at a time, by numpy: by whoever notes the thousandth, or who collects.
"""

import functools
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import numpy as np

from onnxserve_server.core import Clock, ModelSpec, Receipt, Result
from onnxserve_server.errors import ServeError
from onnxserve_server.observing import PAGE, Asked, Run, Trace
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.catalogue import Instrument
from onnxserve_server.telemetry.points import Distribution, Exemplar, Labels, Metric
from onnxserve_server.telemetry.slow import SlowRequest, SlowRequests
from onnxserve_server.telemetry.tracing import Span, Tracing

logger = logging.getLogger(__name__)

OTHER = "_OTHER"
"""Stands for any model that is not served, however callers call it: else they could make series without end."""

_MOST_UNFOLDED = 1024
_MOST_SLOW = 5  # of those that are folded together
_SERVICE = "onnxserve.v1.InferenceService/"
_PREDICT = _SERVICE + "Predict"
_OK = "OK"
_FAULTS = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}  # of the server or the model; the others are the caller's, or load
_T = TypeVar("_T")
_P = ParamSpec("_P")


def _harmless(note: Callable[_P, None]) -> Callable[_P, None]:
    """Keep a defect of ours from the threads that answer callers: it costs figures, and a line in the log."""

    @functools.wraps(note)
    def noted(*arguments: _P.args, **more: _P.kwargs) -> None:
        try:
            note(*arguments, **more)
        except Exception:
            logger.exception("figures are lost")

    return noted


_Kind = tuple[str, str, str, str, str]  # method, model, version, code, reason ("" of a success)
# Seconds, when, and of whom. A plain tuple: a NamedTuple takes half a microsecond more to make, and its users as long.
_Answered = tuple[float, float, Receipt | None, str, Trace | None]
_Ran = tuple[int, int, float, float, float]  # rows, requests, seconds, those wasted, seconds of rows


class Recorder:
    """Implements observing.Observer.

    Args:
        clock: the engine's.
        tracing: what traces requests; None: nothing does.
    """

    def __init__(self, clock: Clock, tracing: Tracing | None = None) -> None:
        self._clock = clock
        self._tracing = tracing
        self._known: Callable[[str, str], ModelSpec | None] = _nothing_is_known
        self._answered: deque[tuple[_Kind, _Answered]] = deque()
        self._runs: deque[tuple[Labels, _Ran]] = deque()
        self._ended: deque[tuple[str, str, float]] = deque()
        self._bursts: deque[float] = deque()
        self._lock = threading.Lock()  # guards what is folded
        self._counters: dict[Instrument, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._distributions: dict[Instrument, dict[Labels, Distribution]] = defaultdict(dict)
        self.slow = SlowRequests()

    def know(self, known: Callable[[str, str], ModelSpec | None]) -> None:
        """Tell what names of models and versions stand for; None: for nothing that is served."""
        self._known = known

    def begin(self, metadata: Iterable[tuple[str, str | bytes]], method: str, arrived: float) -> Trace | None:
        """See Observer."""
        return None if self._tracing is None else self._tracing.begin(metadata, method, arrived)

    @_harmless
    def answered(self, asked: Asked, code: str, outcome: Result | ServeError) -> None:
        """See Observer."""
        now = self._clock()
        if isinstance(outcome, ServeError):  # at once: what a caller calls a model may be megabytes
            (model, version), receipt, reason = self._labels(asked.model, asked.version), None, outcome.reason
        else:
            model, version, receipt, reason = outcome.model, outcome.version, outcome.receipt, ""
        trace = asked.trace
        if trace is not None:
            trace.end(asked, code, outcome)
        if code in _FAULTS:
            logger.warning("a request failed: %s", code, extra=_told(asked, (model, version), reason, now))
        elif logger.isEnabledFor(logging.DEBUG):
            logger.debug("a request ended: %s", code, extra=_told(asked, (model, version), reason, now))
        kind = (asked.method, model, version, code, reason)
        self._answered.append((kind, (now - asked.arrived, now, receipt, asked.request_id, trace)))
        if len(self._answered) >= _MOST_UNFOLDED:
            self._fold()

    @_harmless
    def ran(self, run: Run) -> None:
        """See Observer."""
        spec = run.spec
        rows = max(run.rows, 1)
        wasted = run.seconds * run.wasted_rows / rows
        self._runs.append(((spec.name, spec.version), (rows, run.requests, run.seconds, wasted, run.row_seconds)))
        if run.traces and self._tracing is not None:
            self._tracing.batch(run)

    def ended(self, method: str, code: str, seconds: float) -> None:
        """See Observer."""
        self._ended.append((method, code, seconds))

    def note_burst(self, seconds: float) -> None:
        """Note how long the lane took no calls."""
        self._bursts.append(seconds)
        if len(self._bursts) >= _MOST_UNFOLDED:  # health checks alone make bursts, too
            self._fold()

    def count(self, instrument: Instrument, *labels: str, by: float = 1.0) -> None:
        """Add to a counter, for what happens seldom."""
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
            self._fold_answers(_drained(self._answered))
            self._fold_runs(_drained(self._runs))
            for method, code, seconds in _drained(self._ended):
                self._add(catalogue.CALL_DURATION, (_SERVICE + method, code), np.array([seconds]))
            if bursts := _drained(self._bursts):
                self._add(catalogue.LANE_LAG, (), np.array(bursts))

    def _fold_answers(self, answers: list[tuple[_Kind, _Answered]]) -> None:
        groups: dict[_Kind, list[_Answered]] = defaultdict(list)
        for kind, answer in answers:
            groups[kind].append(answer)
        for (asked, model, version, code, reason), group in groups.items():
            method = asked if asked == PAGE else _SERVICE + asked
            self._counters[catalogue.REQUESTS][model, version, method, code, reason] += len(group)
            self._fold_group(method, (model, version), code, group)

    def _fold_group(self, method: str, model: Labels, code: str, group: list[_Answered]) -> None:
        seconds = np.array([answer[0] for answer in group])
        if method == _PREDICT:  # a stream is one call, see ended()
            self._add(catalogue.CALL_DURATION, (method, code), seconds)
        if code == _OK:
            receipts = [receipt for _, _, receipt, _, _ in group if receipt is not None]
            queued = np.array([receipt.queue_us for receipt in receipts]) / 1e6
            waited = np.array([receipt.batch_wait_us for receipt in receipts]) / 1e6
            self._add(catalogue.REQUEST_DURATION, (*model, method), seconds)
            self._add(catalogue.QUEUE_DURATION, model, queued)
            self._add(catalogue.BATCH_WAIT_DURATION, model, waited)
        to_unix = time.time() - self._clock()
        for took, at, _, _, trace in group:
            if trace is not None and code == _OK and isinstance(trace, Span) and trace.span_id:
                exemplar = Exemplar(took, at + to_unix, trace.trace_id, trace.span_id)
                self._distributions[catalogue.REQUEST_DURATION][*model, method].show(exemplar)
        for i in seconds.argsort()[-_MOST_SLOW:]:
            took, at, receipt, request_id, _ = group[i]
            name, version = model
            self.slow.offer(
                SlowRequest(
                    time=at + to_unix,
                    model=name,
                    version=version,
                    method=method,
                    code=code,
                    seconds=took,
                    receipt=receipt,
                    request_id=request_id,
                )
            )

    def _fold_runs(self, runs: list[tuple[Labels, _Ran]]) -> None:
        groups: dict[Labels, list[_Ran]] = defaultdict(list)
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

    def _labels(self, model: str, version: str) -> Labels:
        spec = self._known(model, version)
        return (OTHER, OTHER) if spec is None else (spec.name, spec.version)

    def _add(
        self, instrument: Instrument, labels: Labels, values: "np.ndarray[tuple[int], np.dtype[np.float64]]"
    ) -> None:
        seen = self._distributions[instrument].get(labels)
        if seen is None:
            seen = self._distributions[instrument][labels] = Distribution(instrument.bounds)
        seen.add(values)


def _told(asked: Asked, model: Labels, reason: str, now: float) -> dict[str, object]:
    """Return what the log says of one request."""
    return {
        "method": asked.method,
        "model": model[0],
        "version": model[1],
        catalogue.ERROR: reason,
        "request_id": asked.request_id,
        "trace_id": "" if asked.trace is None else asked.trace.trace_id,
        "seconds": round(now - asked.arrived, 6),
    }


def _drained(queue: deque[_T]) -> list[_T]:
    """Take out what is in the queue now; others may go on appending."""
    return [queue.popleft() for _ in range(len(queue))]


def _nothing_is_known(_model: str, _version: str) -> ModelSpec | None:
    return None
