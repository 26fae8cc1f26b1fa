"""Every metric of the server: its name, kind, unit, meaning and attributes.

Names are those of OpenTelemetry's semantic conventions where there is one (rpc, process, container; version 1.45).
"""

from dataclasses import dataclass
from typing import Literal

SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the durations' buckets."""
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

METHOD = "rpc.method"
CODE = "rpc.response.status_code"
ERROR = "error.type"
MODEL = "model"
VERSION = "version"


@dataclass(frozen=True, kw_only=True, slots=True)
class Instrument:
    """One metric. `bounds` are a histogram's upper bounds; `attributes` name what its points differ in."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def _counter(name: str, unit: str, meaning: str, *attributes: str) -> Instrument:
    return Instrument(name=name, kind="counter", unit=unit, meaning=meaning, attributes=attributes)


def _gauge(name: str, unit: str, meaning: str, *attributes: str) -> Instrument:
    return Instrument(name=name, kind="gauge", unit=unit, meaning=meaning, attributes=attributes)


def _histogram(name: str, unit: str, meaning: str, *attributes: str) -> Instrument:
    bounds = SECONDS if unit == "s" else ROWS
    return Instrument(name=name, kind="histogram", unit=unit, meaning=meaning, attributes=attributes, bounds=bounds)


CALL_DURATION = _histogram(
    "rpc.server.call.duration", "s", "Predict and Stream calls, from the first message to the end", METHOD, CODE
)
REQUESTS = _counter(
    "onnxserve.requests",
    "{request}",
    "requests that were answered, also those of streams; `error.type` is the reason of a failure",
    MODEL,
    VERSION,
    METHOD,
    CODE,
    ERROR,
)
REQUEST_DURATION = _histogram(
    "onnxserve.request.duration",
    "s",
    "successful requests, from the arrival of the message to the answer",
    MODEL,
    VERSION,
    METHOD,
)
QUEUE_DURATION = _histogram(
    "onnxserve.request.queue.duration", "s", "of these: the wait until an executor was free", MODEL, VERSION
)
BATCH_WAIT_DURATION = _histogram(
    "onnxserve.request.batch_wait.duration",
    "s",
    "of these: the wait for other requests, for the batch to be formed, and for a CPU",
    MODEL,
    VERSION,
)
COMPUTE_DURATION = _histogram(
    "onnxserve.batch.compute.duration", "s", "runs of ONNX Runtime, one per batch", MODEL, VERSION
)
BATCH_ROWS = _histogram("onnxserve.batch.rows", "{row}", "rows of a run", MODEL, VERSION)
BATCH_REQUESTS = _counter(
    "onnxserve.batch.requests", "{request}", "requests, or parts of large ones, that were in runs", MODEL, VERSION
)
ROWS_RUN = _counter("onnxserve.rows", "{row}", "rows that were run", MODEL, VERSION)
ROW_TIME = _counter(
    "onnxserve.rows.time",
    "s",
    "time that rows waited and ran; its rate is the mean number of rows in the server",
    MODEL,
    VERSION,
)
WASTED = _counter(
    "onnxserve.compute.wasted",
    "s",
    "run time for requests that failed or whose callers had left, by their share of rows",
    MODEL,
    VERSION,
)
SPOT_CHECKS = _counter(
    "onnxserve.spot_checks",
    "{check}",
    "rows of batches that were run again without their neighbours, by `result`: same, rounding, random, failed or "
    "dependent, after which batching stops",
    MODEL,
    VERSION,
    "result",
)
SPOT_CHECK_TIME = _counter("onnxserve.spot_checks.time", "s", "time that these checks took", MODEL, VERSION)
QUEUE_ROWS = _gauge("onnxserve.queue.rows", "{row}", "rows that wait", MODEL, VERSION)
QUEUE_SIZE = _gauge("onnxserve.queue.size", "By", "bytes of input that wait", MODEL, VERSION)
QUEUE_LIMIT = _gauge("onnxserve.queue.limit", "{row}", "maximum rows that may wait", MODEL, VERSION)
QUEUE_SIZE_LIMIT = _gauge("onnxserve.queue.size.limit", "By", "maximum bytes of input that may wait", MODEL, VERSION)
ALL_QUEUES_SIZE_LIMIT = _gauge(
    "onnxserve.all_queues.size.limit", "By", "maximum bytes of input that may wait for all models together"
)
EXECUTORS = _gauge(
    "onnxserve.executors", "{executor}", "runs that may go on at the same time: the model's instances", MODEL, VERSION
)
ACTIVE = _gauge("onnxserve.requests.active", "{request}", "requests that wait or run", MODEL, VERSION)
ACTIVE_ROWS = _gauge(
    "onnxserve.rows.active", "{row}", "rows that wait or run, in however many requests", MODEL, VERSION
)
SEQUENCES = _gauge("onnxserve.sequences.live", "{sequence}", "sequences whose state is kept", MODEL, VERSION)
SEQUENCES_LIMIT = _gauge(
    "onnxserve.sequences.limit", "{sequence}", "maximum sequences whose state may be kept", MODEL, VERSION
)
EVICTED = _counter(
    "onnxserve.sequences.evicted",
    "{sequence}",
    "sequences whose state was dropped because they were idle",
    MODEL,
    VERSION,
)
STREAMS = _gauge("onnxserve.streams.active", "{stream}", "Stream calls that are open")
STREAM_REQUESTS = _gauge("onnxserve.streams.requests", "{request}", "requests of all streams that are in flight")
LANE_LAG = _histogram(
    "onnxserve.lane.lag",
    "s",
    "time for which a burst kept the lane from accepting calls: the longest that a call waits for admission",
)
MODEL_INFO = _gauge(
    "onnxserve.model.info",
    "{model}",
    "1: the model is served; `provider` is the execution provider in use, `provider.requested` the first one requested",
    MODEL,
    VERSION,
    "provider",
    "provider.requested",
)
LOADS = _counter("onnxserve.model.loads", "{load}", "attempts to load a model, by `outcome`", MODEL, "outcome")
LOAD_DURATION = _gauge(
    "onnxserve.model.load.duration", "s", "time that probing, loading and warming up took", MODEL, VERSION
)
MODEL_MEMORY = _gauge(
    "onnxserve.model.memory", "By", "growth of the process while the model was loaded and warmed up", MODEL, VERSION
)
MODEL_CPU = _counter(
    "onnxserve.model.cpu.time",
    "s",
    "CPU time of the process, divided among the models by their run time",
    MODEL,
    VERSION,
)
MODEL_ENERGY = _counter(
    "onnxserve.model.energy",
    "J",
    "energy of the CPU packages and GPUs, divided likewise; only where it can be read",
    MODEL,
    VERSION,
)
CPU_TIME = _counter("process.cpu.time", "s", "CPU time of the process", "cpu.mode")
MEMORY = _gauge("process.memory.usage", "By", "resident memory of the process")
THREADS = _gauge("process.thread.count", "{thread}", "threads of the process")
DESCRIPTORS = _gauge("process.unix.file_descriptor.count", "{file_descriptor}", "open file descriptors")
UPTIME = _gauge("process.uptime", "s", "time since the start")
CONTAINER_MEMORY = _gauge("container.memory.usage", "By", "memory of the cgroup, where it can be read")
MEMORY_LIMIT = _gauge("onnxserve.memory.limit", "By", "memory limit of the container, else of the machine")
CPU_LIMIT = _gauge("onnxserve.cpu.limit", "{cpu}", "CPU limit of the container, else of the affinity")
THROTTLED = _counter(
    "onnxserve.cpu.throttled", "s", "time for which the container's CPU quota stopped it; only where it can be read"
)

INSTRUMENTS: tuple[Instrument, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Instrument)
)


_SUFFIXES = {"s": "_seconds", "By": "_bytes", "J": "_joules"}


def prometheus_name(instrument: Instrument) -> str:
    """Return the metric's name at /metrics, by OpenTelemetry's rules for Prometheus."""
    name = instrument.name.replace(".", "_") + _SUFFIXES.get(instrument.unit, "")
    return name + ("_total" if instrument.kind == "counter" else "")
