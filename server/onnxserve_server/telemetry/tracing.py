"""Spans of requests and batches. A request's span has its hops as events; a batch's span links to its requests.

Most requests are not traced, and must not pay for it: a request without a traceparent costs one random number. Requests
that share a batch with a traced one must not pay either: to make a span by the SDK's tracer takes 65 µs
(opentelemetry-sdk 1.45.2, seven events; twice that with cold caches), in which nobody is answered. So hops are only
noted, and the end makes at once the finished span that the tracer would give to a processor, which takes 10 µs.
"""

import random
import time
from collections.abc import Iterable, Sequence

from opentelemetry import trace as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from onnxserve_server.core import Clock, RequestInfo, Result
from onnxserve_server.errors import ServeError
from onnxserve_server.observing import PAGE_METHOD, Run

_PROPAGATOR = TraceContextTextMapPropagator()
_IDS = RandomIdGenerator()
_SCOPE = InstrumentationScope("onnxserve")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_PARENT = "traceparent"
_HEADERS = (_PARENT, "tracestate")
_SERVICE = "onnxserve.v1.InferenceService"
_SERVER_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
_MAX_LINKS = 128
_MAX_NAME = 200  # characters of a model's name, which a caller may have made up


class Span:
    """One traced request; implements observing.Trace. `span_id` is "" where the caller chose not to sample it."""

    __slots__ = ("_arrived", "_http_status", "_marks", "_parent", "_tracing", "context", "span_id", "trace_id")

    def __init__(self, tracing: "Tracing", context: SpanContext, parent: SpanContext | None, arrived: float) -> None:
        self._tracing = tracing
        self._parent = parent
        self._arrived = arrived
        self._marks = [("receive", arrived)]
        self._http_status = 0
        self.context = context
        self.trace_id = f"{context.trace_id:032x}"
        self.span_id = f"{context.span_id:016x}" if context.trace_flags.sampled else ""

    def mark(self, hop: str) -> None:
        """See Trace."""
        self._marks.append((hop, self._tracing.clock()))

    def answered_by_http(self, status: int) -> None:
        """See Trace."""
        self._http_status = status

    def end(self, info: RequestInfo, code: str, outcome: Result | ServeError) -> None:
        """See Trace."""
        if not self.span_id:
            return
        now = self._tracing.clock()
        name, attributes = _describe(info.method)
        status = _UNSET
        if info.method == PAGE_METHOD:
            attributes["http.response.status_code"] = self._http_status
        else:
            attributes["rpc.response.status_code"] = code
        if info.request_id:
            attributes["onnxserve.request_id"] = info.request_id
        if isinstance(outcome, ServeError):
            attributes["onnxserve.model"] = info.model[:_MAX_NAME]
            attributes["error.type"] = outcome.reason
            if code in _SERVER_FAULTS:  # the others are the caller's: OpenTelemetry leaves a server's span unset then
                status = _ERROR
        else:
            receipt = outcome.receipt
            attributes["onnxserve.model"] = outcome.model
            attributes["onnxserve.version"] = outcome.version
            attributes["onnxserve.batch.rows"] = receipt.batch_rows
            attributes["onnxserve.batch.requests"] = receipt.batch_requests
            attributes["onnxserve.provider"] = receipt.provider
            queued = next((when for hop, when in self._marks if hop == "queue"), self._arrived)
            batch = queued + receipt.queue_us / 1e6  # the receipt has the times of the hops that nobody marks
            run = batch + receipt.batch_wait_us / 1e6
            self._marks += [("batch", batch), ("run", run), ("scatter", run + receipt.compute_us / 1e6), ("reply", now)]
        self._tracing.hand_over(
            name,
            self.context,
            self._parent,
            SpanKind.SERVER,
            attributes=attributes,
            marks=self._marks,
            status=status,
            began=self._arrived,
            ended=now,
        )


class Tracing:
    """Decides which requests are traced, and makes the spans.

    Args:
        clock: the engine's.
        ratio: share to trace of the requests without a traceparent. With one, the caller's decision counts.
        processor: receives the spans that have ended.
        resource: attributes of this server.
    """

    def __init__(self, clock: Clock, ratio: float, processor: SpanProcessor, resource: Resource) -> None:
        self.clock = clock
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        self._processor = processor
        self._resource = resource

    def begin(self, metadata: Iterable[tuple[str, str | bytes]], arrived: float) -> Span | None:
        """See Observer."""
        for name, _ in metadata:
            if name == _PARENT:
                return self._begin_below(metadata, arrived)
        if not self._bound:
            return None
        # By the trace's id, so that others that sample by the id at the same ratio keep the same traces.
        trace_id = random.getrandbits(128)
        if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound:
            return None
        return Span(self, _context(trace_id), None, arrived)

    def batch(self, run: Run) -> None:
        """Make the span of a run, with links to the requests that are traced."""
        contexts = [trace.context for trace in run.traces if isinstance(trace, Span) and trace.span_id]
        if not contexts:
            return
        first = contexts[0]
        self.hand_over(
            "onnxserve.batch",
            _context(first.trace_id, first.trace_flags, first.trace_state),
            first,
            SpanKind.INTERNAL,
            attributes={
                "onnxserve.model": run.spec.name,
                "onnxserve.version": run.spec.version,
                "onnxserve.batch.rows": run.rows,
                "onnxserve.batch.requests": run.requests,
                "onnxserve.provider": run.spec.providers[0],
            },
            links=[Link(context) for context in contexts[:_MAX_LINKS]],
            began=run.started,
            ended=run.started + run.seconds,
        )

    def hand_over(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        *,
        attributes: dict[str, str | int],
        marks: Sequence[tuple[str, float]] = (),
        links: Sequence[Link] = (),
        status: Status = _UNSET,
        began: float,
        ended: float,
    ) -> None:
        """Give a span that has ended to the processor; its times, those of `marks` too, are the clock's."""
        offset = time.time() - self.clock()
        self._processor.on_end(
            ReadableSpan(
                name,
                context,
                parent,
                self._resource,
                attributes,
                [Event(hop, timestamp=_nanoseconds(when + offset)) for hop, when in marks],
                links,
                kind,
                status=status,
                start_time=_nanoseconds(began + offset),
                end_time=_nanoseconds(ended + offset),
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        """Send the spans that wait, for a few seconds at most."""
        self._processor.shutdown()

    def _begin_below(self, metadata: Iterable[tuple[str, str | bytes]], arrived: float) -> Span | None:
        carrier = {name: value for name, value in metadata if name in _HEADERS and isinstance(value, str)}
        parent = otel.get_current_span(_PROPAGATOR.extract(carrier)).get_span_context()
        if not parent.is_valid:
            return None
        return Span(self, _context(parent.trace_id, parent.trace_flags, parent.trace_state), parent, arrived)


def _context(trace_id: int, flags: TraceFlags = _SAMPLED, state: TraceState | None = None) -> SpanContext:
    """Return the context of a new span."""
    return SpanContext(trace_id, _IDS.generate_span_id(), is_remote=False, trace_flags=flags, trace_state=state)


def _describe(method: str) -> tuple[str, dict[str, str | int]]:
    """Return name and attributes of a request's span, by OpenTelemetry's conventions for HTTP or for RPC."""
    if method == PAGE_METHOD:
        verb, route = "POST", "/api/predict"
        return f"{verb} {route}", {
            "http.request.method": verb,
            "http.route": route,
            "url.path": route,
            "url.scheme": "http",
        }
    name = f"{_SERVICE}/{method}"
    return name, {"rpc.system.name": "grpc", "rpc.method": name}


def _nanoseconds(unix_time: float) -> int:
    return int(unix_time * 1e9)
