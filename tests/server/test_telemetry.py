"""Counting, attributing, limiting: the parts of telemetry by themselves."""

import json
import logging
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from onnxserve_server.core import Receipt, Result
from onnxserve_server.errors import DeadlineExceeded, ModelNotFound, ModelRunFailed, QueueFull, SequencesFull
from onnxserve_server.observing import PAGE_METHOD, Run
from onnxserve_server.telemetry import catalogue
from onnxserve_server.telemetry.attribution import Attribution, Rapl
from onnxserve_server.telemetry.catalogue import INSTRUMENTS, SECONDS, prometheus_name
from onnxserve_server.telemetry.logs import Console, Json, RateLimit
from onnxserve_server.telemetry.metric_data import Distribution
from onnxserve_server.telemetry.recorder import _MAX_UNFOLDED, OTHER, Recorder
from onnxserve_server.telemetry.slow_requests import SlowRequest, SlowRequests
from onnxserve_server.telemetry.system import System

ROOT = Path(__file__).parent.parent.parent
RECEIPT = Receipt(100, 200, 300, 4, 2, "CPUExecutionProvider")


def info(clock, model="m", seconds=0.0, request_id=""):
    return SimpleNamespace(
        method="Predict", model=model, version="", request_id=request_id, arrived=clock() - seconds, trace=None
    )


def recorder(clock, serving=("m",)):
    """A recorder that knows version 1 of the models that serve now."""
    return Recorder(clock, lambda name, version: SimpleNamespace(name=name, version="1") if name in serving else None)


def points(metrics, instrument):
    return next(dict(metric.points) for metric in metrics if metric.instrument is instrument)


def test_a_value_that_equals_a_bound_lies_below_it_as_in_prometheus():
    seen = Distribution((1.0, 2.0))
    seen.add(np.array([0.5, 1.0, 1.5, 2.0, 2.5]))
    assert seen.counts.tolist() == [2, 2, 1]
    assert seen.total == 7.5


@pytest.fixture
def switching():
    """Threads that switch all the time: else they hardly ever do where it matters."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_nothing_is_lost_between_threads_that_note_and_fold():
    clock = time.monotonic
    watched = recorder(clock)
    collected = threading.Event()

    def note():
        for i in range(20_000):
            watched.on_answer(info(clock), "OK", Result(f"m{i % 7}", "1", (), RECEIPT))

    def collect():
        while not collected.is_set():
            watched.collect()

    threads = [threading.Thread(target=note) for _ in range(4)]
    collector = threading.Thread(target=collect)
    for thread in (*threads, collector):
        thread.start()
    for thread in threads:
        thread.join()
    collected.set()
    collector.join()
    metrics = watched.collect()
    assert sum(points(metrics, catalogue.REQUESTS).values()) == 80_000
    queues = points(metrics, catalogue.QUEUE_DURATION).values()
    assert sum(queue.counts.sum() for queue in queues) == 80_000
    assert sum(queue.counts[SECONDS.index(1e-4)] for queue in queues) == 80_000  # 100 µs each
    assert sum(queue.total for queue in queues) == pytest.approx(8.0)


def test_what_nobody_collects_is_folded_all_the_same(clock):
    watched = recorder(clock)
    spec = SimpleNamespace(name="m", version="1")
    for _ in range(10 * _MAX_UNFOLDED):
        watched.on_run(Run(spec, 1, 1, 0, 0.0, 0.0, 0.0, 0.001, ()))
        watched.on_call_end("Stream", "OK", 1.0)
        watched.on_answer(info(clock), "OK", Result("m", "1", (), RECEIPT))
    assert len(watched._runs) + len(watched._calls) < 2 * _MAX_UNFOLDED
    assert all(len(figures) < 3 * _MAX_UNFOLDED for figures in watched._answers.values())
    metrics = watched.collect()
    assert [sum(points(metrics, one).values()) for one in (catalogue.REQUESTS, catalogue.ROWS_RUN)] == [10_240] * 2


def test_failures_do_not_count_as_durations(clock):
    watched = recorder(clock)
    watched.on_answer(info(clock, seconds=0.3), "DEADLINE_EXCEEDED", DeadlineExceeded("too late"))
    metrics = watched.collect()
    assert sum(points(metrics, catalogue.REQUESTS).values()) == 1
    assert catalogue.REQUEST_DURATION not in {metric.instrument for metric in metrics}


def test_names_that_callers_make_up_are_one_series(clock):
    serving = {"m"}
    watched, unknown = recorder(clock, serving), ModelNotFound("no such model", "m")
    for i in range(3000):
        made_up = info(clock, model="m" if i % 2 else f"m{i}" * 1000, seconds=1.0)
        made_up.version = str(i)
        watched.on_answer(made_up, "NOT_FOUND", unknown)
    serving.clear()
    watched.on_answer(info(clock), "NOT_FOUND", unknown)
    found = points(watched.collect(), catalogue.REQUESTS)
    assert {labels[:2] for labels in found} == {("m", "1"), (OTHER, OTHER)}
    assert sum(found.values()) == 3001
    assert {one.model for one in watched.slow.slowest(time.time())} == {"m", OTHER}


def test_failures_of_one_code_differ_by_their_reason(clock):
    watched, refused = recorder(clock), "RESOURCE_EXHAUSTED"
    watched.on_answer(info(clock), refused, QueueFull("full", 1.0))
    watched.on_answer(info(clock), refused, QueueFull("full", 1.0))
    watched.on_answer(info(clock), refused, SequencesFull("full"))
    watched.on_answer(info(clock), "OK", Result("m", "1", (), RECEIPT))
    metrics = watched.collect()
    found = {labels[3:]: count for labels, count in points(metrics, catalogue.REQUESTS).items()}
    assert found == {(refused, "QUEUE_FULL"): 2, (refused, "SEQUENCES_FULL"): 1, ("OK", ""): 1}
    calls = points(metrics, catalogue.CALL_DURATION)
    assert {labels[1]: seen.counts.sum() for labels, seen in calls.items()} == {refused: 3, "OK": 1}


def test_what_the_log_says_of_a_failure_has_its_reason(clock, caplog):
    recorder(clock).on_answer(info(clock, request_id="r1"), "INTERNAL", ModelRunFailed("a caller's data"))
    (logged,) = caplog.records
    fields = json.loads(Json().format(logged))
    assert (fields["error.type"], fields["request_id"], fields["model"]) == ("MODEL_RUN_FAILED", "r1", "m")
    assert "a caller's data" not in str(fields)


def test_what_came_by_http_is_no_call_of_grpc(clock):
    watched = recorder(clock)
    for method in ("Predict", PAGE_METHOD):
        one = info(clock)
        one.method = method
        watched.on_answer(one, "OK", Result("m", "1", (), RECEIPT))
    metrics = watched.collect()
    predict = "onnxserve.v1.InferenceService/Predict"
    assert {labels[2] for labels in points(metrics, catalogue.REQUESTS)} == {predict, "Page"}
    assert points(metrics, catalogue.CALL_DURATION).keys() == {(predict, "OK")}


def test_a_defect_in_counting_costs_figures_and_no_answer(clock, caplog):
    watched = recorder(clock)
    no_figures = Result("m", "1", (), RECEIPT._replace(queue_us="no number"))
    for _ in range(_MAX_UNFOLDED):  # the last one folds
        watched.on_answer(info(clock), "OK", no_figures)
    assert [record.message for record in caplog.records] == ["an event is missing from the metrics"]

    watched.on_answer(info(clock), "OK", no_figures)
    watched.collect()  # folds, and does not fail either
    caplog.clear()

    def fail(*_):
        raise RuntimeError

    one = info(clock)
    one.trace = SimpleNamespace(end=fail)
    watched.on_answer(one, "OK", Result("m", "1", (), RECEIPT))
    watched.on_run(None)
    assert [record.message for record in caplog.records] == ["an event is missing from the metrics"] * 2
    watched.on_answer(info(clock), "OK", Result("m", "1", (), RECEIPT))
    assert [seen.counts.sum() for seen in points(watched.collect(), catalogue.QUEUE_DURATION).values()] == [1]


def test_the_slowest_requests_are_kept_with_their_receipts_for_a_while(clock):
    watched = recorder(clock)
    for i in range(100):
        watched.on_answer(info(clock, seconds=i / 10, request_id=f"r{i}"), "OK", Result("m", "1", (), RECEIPT))
    watched.collect()
    now = time.time()
    slowest = watched.slow.slowest(now)
    assert [one.request_id for one in slowest[:5]] == ["r99", "r98", "r97", "r96", "r95"]
    assert slowest[0].receipt == RECEIPT
    assert slowest[0].seconds == pytest.approx(9.9)
    assert watched.slow.slowest(now + 3600) == []


def test_when_slow_requests_become_too_old_faster_ones_are_kept(clock):
    watched = recorder(clock)
    minutes_ago = time.time() - 301
    for _ in range(20):
        watched.slow.offer(SlowRequest(minutes_ago, "m", "1", "Predict", "OK", 10.0, None, ""))
    watched.on_answer(info(clock, seconds=2.0), "OK", Result("m", "1", (), RECEIPT))
    assert [one.seconds for one in watched.slow.slowest(time.time())] == [pytest.approx(2.0)]


def test_slow_requests_make_room_for_slower_ones():
    kept = SlowRequests(max_kept=3, window=10)
    for seconds in (1, 5, 2, 4, 3):
        kept.offer(SlowRequest(100.0, "m", "1", "Predict", "OK", seconds, None, ""))
    assert [one.seconds for one in kept.slowest(100.0)] == [5, 4, 3]


class Meter:
    def __init__(self, *states):
        self.states = iter(states)

    def read(self):
        return next(self.states)


def test_use_is_attributed_by_run_time():
    seconds = iter([{"a": 1.0}, {"a": 4.0, "b": 1.0}, {"a": 4.0, "b": 1.0}])
    meters = [(catalogue.MODEL_CPU, Meter(10.0, 12.0, 20.0, 25.0))]
    attribution = Attribution(lambda: next(seconds), lambda: {"a": 1, "b": 1}, meters)
    assert dict(next(attribution.collect()).points) == {"a": 2.0}
    assert dict(next(attribution.collect()).points) == {"a": 2.0 + 6.0, "b": 2.0}
    # Nobody ran: what was used is nobody's.
    assert dict(next(attribution.collect()).points) == {"a": 8.0, "b": 2.0}


def test_run_time_counts_by_the_threads_of_its_own_time():
    seconds = iter([{"a": 10.0}, {"a": 11.0, "b": 4.0}, {"a": 12.0, "b": 5.0}])
    threads = iter([{"a": 4}, {"b": 1}, {"a": 1, "b": 1}])  # a is stopped, then loaded again with one thread
    meters = [(catalogue.MODEL_CPU, Meter(0.0, 8.0, 16.0, 18.0))]
    attribution = Attribution(lambda: next(seconds), lambda: next(threads), meters)
    assert dict(next(attribution.collect()).points) == {"a": 8.0}
    assert dict(next(attribution.collect()).points) == {"a": 8.0 + 4.0, "b": 4.0}
    assert dict(next(attribution.collect()).points) == {"a": 12.0 + 1.0, "b": 4.0 + 1.0}


def zone(root, name, joules, top=1000):
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text(f"{int(top * 1e6)}\n")


def test_energy_is_summed_over_packages_and_survives_the_counter_s_wrap(tmp_path):
    zone(tmp_path, "intel-rapl:0", 990)
    zone(tmp_path, "intel-rapl:1", 5)
    zone(tmp_path, "intel-rapl:0:0", 100)  # a part of package 0: it is in its sum
    meter = Rapl.find(tmp_path)
    assert meter.read() == 0
    zone(tmp_path, "intel-rapl:0", 10)
    zone(tmp_path, "intel-rapl:1", 7)
    assert meter.read() == pytest.approx(20 + 2, abs=1e-5)


def test_without_a_readable_counter_there_is_no_energy(tmp_path):
    assert Rapl.find(tmp_path) is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert Rapl.find(tmp_path) is None


V2 = {"memory.current": "123456", "cpu.stat": "usage_usec 5\nthrottled_usec 2500000"}
V1 = {
    "memory/memory.usage_in_bytes": "123456",
    "cpu/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 2500000000",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_figures_of_the_container_are_read(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    metrics = list(System(tmp_path).collect())
    assert points(metrics, catalogue.CONTAINER_MEMORY) == {(): 123456}
    assert points(metrics, catalogue.THROTTLED) == {(): 2.5}


@pytest.mark.parametrize("text", ["", "usage_usec 5", "nr_periods", "throttled_usec many"])
def test_figures_that_are_not_there_are_left_out(tmp_path, text):
    (tmp_path / "cpu.stat").write_text(text)
    found = {metric.instrument for metric in System(tmp_path).collect()}
    assert not found & {catalogue.CONTAINER_MEMORY, catalogue.THROTTLED}
    assert catalogue.MEMORY in found


def record(message="m", level=logging.WARNING, name="onnxserve_server.x", line=1, **fields):
    made = logging.LogRecord(name, level, "x.py", line, message, (), None)
    vars(made).update(fields)
    return made


def test_repeats_of_one_place_become_one_line(clock):
    emitted = []
    limit = RateLimit(emitted.append, clock)
    assert [limit.filter(record(request_id=f"r{i}")) for i in range(25)] == [True] * 10 + [False] * 15
    assert limit.filter(record(line=2))
    assert all(limit.filter(record(level=logging.INFO)) for _ in range(50))
    limit.flush()
    (line,) = map(Console().format, emitted)
    assert line.endswith("m (and 14 more like it since) request_id=r10")
    assert limit.filter(emitted[0])
    assert [limit.filter(record()) for _ in range(10)] == [True] * 9 + [False]  # the line is one of ten
    limit.flush()
    assert Console().format(emitted[1]).endswith(": m")
    limit.flush()
    assert len(emitted) == 2
    clock.now += 61
    assert all(limit.filter(record()) for _ in range(10))


def test_repeats_are_logged_after_a_minute_though_nothing_comes_any_more():
    emitted, over = [], threading.Event()
    limit = RateLimit(lambda record: (emitted.append(record), over.set()), minute=2)
    for _ in range(12):
        limit.filter(record())
    assert over.wait(10)
    assert Console().format(emitted[0]).endswith("m (and 1 more like it since)")


def test_an_exception_that_is_withheld_keeps_nothing_of_its_frames():
    emitted = []
    limit = RateLimit(emitted.append)
    for _ in range(11):
        try:
            raise ValueError("a caller's data")
        except ValueError:
            failed = record(level=logging.ERROR)
            failed.exc_info = sys.exc_info()
            limit.filter(failed)
    limit.flush()
    assert emitted[0].exc_info is None
    line = Console().format(emitted[0])
    assert "m: ValueError in test_an_exception_that_is_withheld" in line
    assert "a caller's data" not in line


def test_what_exporters_say_is_limited_to_one_a_minute(clock):
    limit = RateLimit([].append, clock)
    names = ["opentelemetry.exporter.a", "opentelemetry.sdk.b"]
    assert [limit.filter(record(name=name, line=line)) for name in names for line in (1, 2)] == [
        True,
        False,
        False,
        False,
    ]
    limit.flush()  # the line of the next minute
    assert not limit.filter(record(name=names[0]))
    limit.flush()


def test_what_exporters_say_names_our_setting():
    assert "the server goes on" in Console().format(record(name="opentelemetry.exporter.a"))
    assert "--otlp-endpoint" in Json().format(record(name="opentelemetry.sdk.b"))
    assert "--otlp-endpoint" not in Json().format(record())


def test_a_json_line_has_the_fields_and_no_text_of_an_exception():
    try:
        raise ValueError("a caller's data")
    except ValueError:
        failed = record(request_id="r1", trace_id="", level=logging.ERROR)
        failed.exc_info = sys.exc_info()
    line = Json().format(failed)
    fields = json.loads(line)
    assert (fields["level"], fields["request_id"], fields["logger"]) == ("error", "r1", "onnxserve_server.x")
    assert "trace_id" not in fields
    assert "ValueError" in fields["message"]
    assert "a caller's data" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "control", ["\n", "\r", "\r\n", "\v", "\f", "\x1b[2K", "\x85", "\u2028", "\u2029", "\0", "\x7f"]
)
def test_no_name_of_a_caller_forges_a_line_for_people(control):
    forged = f"x{control}2026-01-01 00:00:00,000 ERROR onnxserve_server.app: all is lost"
    for one in (record(model=forged), record(request_id=forged), record(message=forged), record(**{forged: 1})):
        line = Console().format(one)
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        assert "all is lost" in line


def test_names_at_metrics_are_distinct():
    names = [prometheus_name(one) for one in INSTRUMENTS]
    assert len(set(names)) == len(names)
