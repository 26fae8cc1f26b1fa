"""Metrics as Prometheus scrapes them: its text format, or OpenMetrics, with exemplars, if the scraper accepts it."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as PrometheusExemplar

from onnxserve_server.telemetry.catalogue import Instrument, prometheus_name
from onnxserve_server.telemetry.metric_data import Distribution, Metric


def scrape(metrics: Sequence[Metric], resource: dict[str, str], accept: str) -> tuple[bytes, str]:
    """Return the body of a scrape's response, and its content type.

    Args:
        metrics: the metrics of one collection.
        resource: attributes of the server; they become the labels of target_info, as OpenTelemetry specifies.
        accept: the Accept header of the request.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is not a number
        encode, content_type = choose_encoder("")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(metrics, resource))
    return encode(registry), content_type


class _Collected(Collector):
    def __init__(self, metrics: Sequence[Metric], resource: dict[str, str]) -> None:
        self._metrics = metrics
        self._resource = resource

    def collect(self) -> Iterator[Family]:
        labels = {_label(name): value for name, value in self._resource.items()}
        yield InfoMetricFamily("target", "attributes of the server", labels)
        for metric in self._metrics:
            yield _FAMILIES[metric.instrument.kind](metric)


def _counter(metric: Metric) -> Family:
    one = metric.instrument
    family = CounterMetricFamily(prometheus_name(one), one.meaning, labels=_labels(one))
    for labels, value in metric.points:
        family.add_metric(labels, value)  # type: ignore[arg-type]
    return family


def _gauge(metric: Metric) -> Family:
    one = metric.instrument
    family = GaugeMetricFamily(prometheus_name(one), one.meaning, labels=_labels(one))
    for labels, value in metric.points:
        family.add_metric(labels, value)  # type: ignore[arg-type]
    return family


def _histogram(metric: Metric) -> Family:
    one = metric.instrument
    family = HistogramMetricFamily(prometheus_name(one), one.meaning, labels=_labels(one))
    bounds = [*map(str, one.bounds), "+Inf"]
    for labels, seen in metric.points:
        assert isinstance(seen, Distribution)
        counts = accumulate(seen.counts.tolist())
        buckets: list[Any] = [
            (bound, count, *_exemplar(seen, i)) for i, (bound, count) in enumerate(zip(bounds, counts, strict=True))
        ]
        family.add_metric(labels, buckets, seen.total)
    return family


_FAMILIES: dict[str, Callable[[Metric], Family]] = {"counter": _counter, "gauge": _gauge, "histogram": _histogram}


def _exemplar(seen: Distribution, bucket: int) -> tuple[PrometheusExemplar, ...]:
    exemplar = seen.exemplars.get(bucket)
    if exemplar is None:
        return ()
    ids = {"trace_id": exemplar.trace_id, "span_id": exemplar.span_id}
    return (PrometheusExemplar(ids, exemplar.value, exemplar.time),)


def _labels(instrument: Instrument) -> list[str]:
    return [_label(name) for name in instrument.attributes]


def _label(name: str) -> str:
    return name.replace(".", "_")
