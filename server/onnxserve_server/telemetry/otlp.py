"""Metrics, traces and logs, pushed to an OpenTelemetry collector by OTLP over gRPC.

It happens on threads of its own, from bounded queues. While the collector is unreachable, telemetry is lost, and the
log has a warning a minute.
"""

import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from onnxserve_server.telemetry.logs import fields_of, message_of
from onnxserve_server.telemetry.metric_data import Distribution, Labels, Metric

logger = logging.getLogger(__name__)

_SCOPE = InstrumentationScope("onnxserve")
_TIMEOUT = 5.0  # seconds of one export
_CUMULATIVE = otel.AggregationTemporality.CUMULATIVE
_MAX_SPANS = 2048  # that wait to be sent; more are dropped


def channel_options(endpoint: str) -> Any:
    """Return the options of the channel to a collector: one on this machine is reached without a proxy."""
    host = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or ""
    try:
        is_near = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_near = False
    return (("grpc.enable_http_proxy", 0),) if is_near else None


def span_processor(endpoint: str) -> SpanProcessor:
    """Return a processor that sends spans in batches."""
    return BatchSpanProcessor(
        OTLPSpanExporter(endpoint, timeout=_TIMEOUT, channel_options=channel_options(endpoint)),
        max_queue_size=_MAX_SPANS,
        schedule_delay_millis=1000,
    )


class MetricPush:
    """Sends all metrics at an interval, and at the end.

    Args:
        endpoint: URL of the collector, such as "http://localhost:4317".
        interval: seconds between two exports.
        collect: returns the metrics.
        resource: attributes of this server.
    """

    def __init__(
        self, endpoint: str, interval: float, collect: Callable[[], Sequence[Metric]], resource: Resource
    ) -> None:
        self._exporter = OTLPMetricExporter(endpoint, timeout=_TIMEOUT, channel_options=channel_options(endpoint))
        self._interval = interval
        self._collect = collect
        self._resource = resource
        self._started = time.time_ns()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onnxserve-otlp-metrics", daemon=True)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def stop(self) -> None:
        """Send once more, then stop; within a few seconds, whatever the collector does."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT)
        self._exporter.shutdown(timeout_millis=1000)

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self._push()
        self._push()

    def _push(self) -> None:
        try:
            self._exporter.export(to_otel(self._collect(), self._resource, self._started, time.time_ns()))
        except Exception:  # the thread must live; the exporter itself logs what went wrong on the way
            logger.exception("the metrics could not be pushed")


class LogPush(logging.Handler):
    """Sends log records. trace_id and span_id become the record's trace context, our other fields attributes."""

    def __init__(self, endpoint: str, resource: Resource) -> None:
        super().__init__()
        self._provider = LoggerProvider(resource, shutdown_on_exit=False)
        exporter = OTLPLogExporter(endpoint, timeout=_TIMEOUT, channel_options=channel_options(endpoint))
        self._provider.add_log_record_processor(BatchLogRecordProcessor(exporter))

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, unless it is about sending."""
        if record.name.startswith("opentelemetry"):
            return
        fields = fields_of(record)
        trace_id, span_id = str(fields.pop("trace_id", "") or "0"), str(fields.pop("span_id", "") or "0")
        self._provider.get_logger(record.name).emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                severity_text=record.levelname,
                severity_number=_SEVERITIES.get(record.levelno, SeverityNumber.UNSPECIFIED),
                body=message_of(record),
                attributes=fields,
                trace_id=int(trace_id, 16),
                span_id=int(span_id, 16),
            )
        )

    def close(self) -> None:
        """Send the records that wait."""
        self._provider.shutdown()
        super().close()


_SEVERITIES = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


def to_otel(metrics: Sequence[Metric], resource: Resource, started: int, now: int) -> otel.MetricsData:
    """Return metrics in the SDK's own form; `started` and `now` are Unix time in nanoseconds."""
    converted = [_to_otel(metric, started, now) for metric in metrics]
    scope = otel.ScopeMetrics(scope=_SCOPE, metrics=converted, schema_url="")
    return otel.MetricsData([otel.ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url="")])


def _to_otel(metric: Metric, started: int, now: int) -> otel.Metric:
    one = metric.instrument
    points: list[otel.NumberDataPoint] = []
    distributions: list[otel.HistogramDataPoint] = []
    for labels, value in metric.points:
        attributes = {name: label for name, label in zip(one.attributes, labels, strict=True) if label}
        if isinstance(value, Distribution):
            distributions.append(_distribution(attributes, value, one.bounds, started, now))
        else:
            points.append(otel.NumberDataPoint(attributes, started, now, value))
    data: otel.DataT
    if one.kind == "histogram":
        data = otel.Histogram(distributions, _CUMULATIVE)
    elif one.kind == "counter":
        data = otel.Sum(points, _CUMULATIVE, is_monotonic=True)
    else:
        data = otel.Gauge(points)
    return otel.Metric(one.name, one.meaning, one.unit, data)


def _distribution(
    attributes: dict[str, str], seen: Distribution, bounds: Labels | tuple[float, ...], started: int, now: int
) -> otel.HistogramDataPoint:
    exemplars = [
        Exemplar({}, one.value, int(one.time * 1e9), int(one.span_id, 16), int(one.trace_id, 16))
        for one in seen.exemplars.values()
    ]
    counts = seen.counts.tolist()
    return otel.HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=started,
        time_unix_nano=now,
        count=sum(counts),
        sum=seen.total,
        bucket_counts=counts,
        explicit_bounds=bounds,  # type: ignore[arg-type]
        min=0.0,
        max=0.0,
        exemplars=exemplars,
    )
