"""Spans of requests and batches. A request's span has its hops as events; a batch's span links to its requests.

Most requests are not traced, and must not pay for it: a request without a traceparent costs one random number, and what
OpenTelemetry's SDK does (about 10 µs a span) is done for the sampled ones alone.
"""

import random
import threading
import time
from collections.abc import Iterable, Sequence

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanKind,
    Status,
    StatusCode,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from onnxserve_server.core import Clock, Result
from onnxserve_server.errors import ServeError
from onnxserve_server.observing import PAGE, Asked, Run

_PROPAGATOR = TraceContextTextMapPropagator()
_PARENT = "traceparent"
_HEADERS = (_PARENT, "tracestate")
_SERVICE = "onnxserve.v1.InferenceService"
_SERVER_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
_MOST_LINKS = 128
_LONGEST = 200  # characters of a name that a caller made up


class Span:
    """One traced request; implements observing.Trace. `span_id` is "" where the caller chose not to sample it."""

    __slots__ = ("_clock", "_offset", "_queued", "_span", "context", "span_id", "trace_id")

    def __init__(self, span: otel.Span, clock: Clock, offset: float, arrived: float) -> None:
        self._span = span
        self._queued = arrived
        self._clock = clock
        self._offset = offset
        self.context = span.get_span_context()
        self.trace_id = f"{self.context.trace_id:032x}"
        self.span_id = f"{self.context.span_id:016x}" if self.context.trace_flags.sampled else ""

    def mark(self, hop: str) -> None:
        """See Trace."""
        now = self._clock()
        if hop == "queue":
            self._queued = now
        self._event(hop, now)

    def answered_by_http(self, status: int) -> None:
        """See Trace."""
        self._span.set_attribute("http.response.status_code", status)

    def end(self, asked: Asked, code: str, outcome: Result | ServeError) -> None:
        """See Trace."""
        span, now = self._span, self._clock()
        if not span.is_recording():
            return
        if asked.method != PAGE:
            span.set_attribute("rpc.response.status_code", code)
        if asked.request_id:
            span.set_attribute("onnxserve.request_id", asked.request_id)
        if isinstance(outcome, ServeError):
            span.set_attribute("onnxserve.model", asked.model[:_LONGEST])
            span.set_attribute("error.type", outcome.reason)
            if code in _SERVER_FAULTS:  # the others are the caller's: OpenTelemetry leaves a server's span unset then
                span.set_status(Status(StatusCode.ERROR))
        else:
            receipt = outcome.receipt
            span.set_attributes(
                {
                    "onnxserve.model": outcome.model,
                    "onnxserve.version": outcome.version,
                    "onnxserve.batch.rows": receipt.batch_rows,
                    "onnxserve.batch.requests": receipt.batch_requests,
                    "onnxserve.provider": receipt.provider,
                }
            )
            batch = self._queued + receipt.queue_us / 1e6  # the receipt tells of the hops that nobody marks
            run = batch + receipt.batch_wait_us / 1e6
            for hop, when in (("batch", batch), ("run", run), ("scatter", run + receipt.compute_us / 1e6)):
                self._event(hop, when)
            self._event("reply", now)
        span.end(_nanoseconds(now + self._offset))

    def _event(self, hop: str, when: float) -> None:
        self._span.add_event(hop, timestamp=_nanoseconds(when + self._offset))


class Tracing:
    """Decides who is traced, and makes the spans.

    Args:
        clock: the engine's.
        ratio: share of the requests without a traceparent that are traced. Those with one do as their caller does.
        processors: where ended spans go.
        resource: what the spans say of this server.
    """

    def __init__(self, clock: Clock, ratio: float, processors: Sequence[SpanProcessor], resource: Resource) -> None:
        self._clock = clock
        self._ids = _ChosenIds()
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        sampler = ParentBased(ALWAYS_ON)  # roots come here only once begin() has drawn them
        self._provider = TracerProvider(sampler=sampler, resource=resource, id_generator=self._ids)
        for processor in processors:
            self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("onnxserve")

    def begin(self, metadata: Iterable[tuple[str, str | bytes]], method: str, arrived: float) -> Span | None:
        """See Observer."""
        for name, _ in metadata:
            if name == _PARENT:
                return self._begin_below(metadata, method, arrived)
        if not self._bound:
            return None
        trace_id = random.getrandbits(128)
        if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound:
            return None
        self._ids.choose(trace_id)
        return self._span(None, method, arrived)

    def batch(self, run: Run) -> None:
        """Make the span of a run, with links to the requests that are traced."""
        contexts = [trace.context for trace in run.traces if isinstance(trace, Span) and trace.span_id]
        if not contexts:
            return
        offset = time.time() - self._clock()
        first = otel.set_span_in_context(NonRecordingSpan(contexts[0]))
        span = self._tracer.start_span(
            "onnxserve.batch",
            context=first,
            links=[Link(context) for context in contexts[:_MOST_LINKS]],
            start_time=_nanoseconds(run.started + offset),
            attributes={
                "onnxserve.model": run.spec.name,
                "onnxserve.version": run.spec.version,
                "onnxserve.batch.rows": run.rows,
                "onnxserve.batch.requests": run.requests,
                "onnxserve.provider": run.spec.providers[0],
            },
        )
        span.end(_nanoseconds(run.started + run.seconds + offset))

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._provider.shutdown()

    def _begin_below(self, metadata: Iterable[tuple[str, str | bytes]], method: str, arrived: float) -> Span | None:
        carrier = {name: value for name, value in metadata if name in _HEADERS and isinstance(value, str)}
        context = _PROPAGATOR.extract(carrier)
        if not otel.get_current_span(context).get_span_context().is_valid:
            return None
        return self._span(context, method, arrived)

    def _span(self, context: Context | None, method: str, arrived: float) -> Span:
        offset = time.time() - self._clock()
        name, attributes = _described(method)
        span = self._tracer.start_span(
            name,
            context=context or Context(),
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(arrived + offset),
            attributes=attributes,
        )
        if span.is_recording():
            span.add_event("receive", timestamp=_nanoseconds(arrived + offset))
        return Span(span, self._clock, offset, arrived)


class _ChosenIds(RandomIdGenerator):
    """Gives a trace the id by which it was drawn, so that whoever samples by the id comes to the same end."""

    def __init__(self) -> None:
        self._thread = threading.local()

    def choose(self, trace_id: int) -> None:
        """Use this id for the next trace of this thread."""
        self._thread.chosen = trace_id

    def generate_trace_id(self) -> int:
        """See RandomIdGenerator."""
        chosen: int | None = getattr(self._thread, "chosen", None)
        self._thread.chosen = None
        return super().generate_trace_id() if chosen is None else chosen


def _described(method: str) -> tuple[str, dict[str, str]]:
    """Return name and attributes of a request's span, by OpenTelemetry's conventions for what it came by."""
    if method == PAGE:
        verb, route = "POST", "/api/predict"
        told = {"http.request.method": verb, "http.route": route, "url.path": route, "url.scheme": "http"}
        return f"{verb} {route}", told
    name = f"{_SERVICE}/{method}"
    return name, {"rpc.system.name": "grpc", "rpc.method": name}


def _nanoseconds(unix_time: float) -> int:
    return int(unix_time * 1e9)
