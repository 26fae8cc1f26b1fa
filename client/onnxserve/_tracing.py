"""The caller's span of a call, where the calling program uses OpenTelemetry: `pip install 'onnxserve[otel]'`.

The package is optional. In a program that has the package but no tracer it costs one comparison a call.

As in OpenTelemetry's conventions for RPC, a stream has one span until its end, even if it continues on further calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from onnxserve._channel import INFERENCE
from onnxserve.errors import OnnxserveError

try:
    from opentelemetry import propagate, trace
except ImportError:  # then start() gives None
    trace = None  # type: ignore[assignment]

Metadata = Sequence[tuple[str, str]]


class CallSpan:
    """A span of kind CLIENT; a context manager around its call. It does not become the program's current span.

    Attributes:
        metadata: the headers that pass the span on to the server, made by the program's propagators.
    """

    def __init__(self, span: trace.Span | None) -> None:
        """Take a span that has been started; None: the call is not traced."""
        self._span = span
        carrier: dict[str, str] = {}
        if span is not None:
            propagate.inject(carrier, trace.set_span_in_context(span))
        self.metadata: Metadata = tuple(carrier.items())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """End the span with the call's error; a BaseException such as GeneratorExit means that the caller has left."""
        span = self._span
        if span is None:
            return
        match error:
            case None:
                span.set_attribute("rpc.response.status_code", "OK")
            case OnnxserveError():
                span.set_attribute("rpc.response.status_code", error.code.name)
                span.set_attribute("error.type", error.code.name)
                span.set_status(trace.Status(trace.StatusCode.ERROR, error.reason))
            case Exception():  # of the caller's own inputs
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(trace.Status(trace.StatusCode.ERROR))
            case _:
                span.set_attribute("rpc.response.status_code", "CANCELLED")
        span.end()


_UNSEEN = CallSpan(None)


def start(method: str, model: str) -> CallSpan | None:
    """Start the span of a call below the program's current one; None: the call is not traced."""
    if trace is None or type(trace.get_tracer_provider()) is trace.ProxyTracerProvider:  # no tracer is set up
        return None
    span = trace.get_tracer("onnxserve").start_span(
        f"{INFERENCE}/{method}",
        kind=trace.SpanKind.CLIENT,
        attributes={"rpc.system.name": "grpc", "rpc.method": f"{INFERENCE}/{method}", "onnxserve.model": model},
    )
    return CallSpan(span) if span.get_span_context().trace_flags.sampled else None


def start_stream(model: str) -> CallSpan:
    """Start the span of a call of Stream, as start() does; if the call is not traced, one that does nothing."""
    return start("Stream", model) or _UNSEEN
