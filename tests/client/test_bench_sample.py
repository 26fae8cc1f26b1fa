import time

import grpc
import pytest

from onnxserve import ResourceExhausted
from onnxserve._bench.cpu import Meter, Use
from onnxserve._bench.load import Callers, Rate
from onnxserve._bench.sample import Recorder
from onnxserve.v1.inference_service_pb2 import Receipt

ALONE = Receipt(batch_rows=1, batch_requests=1)


def sample_of(recorder, load=None, seconds=2.0, rows=1):
    return recorder.sample(load or Callers(1), seconds=seconds, rows=rows, cpu=Use(), complete=True)


def test_percentiles_and_rates_are_those_of_the_answers():
    recorder = Recorder()
    for ms in [*range(1, 101)]:
        recorder.record(ALONE, ms / 1000)
    sample = sample_of(recorder, seconds=4.0, rows=3)
    latency = sample.latency
    assert (latency.mean, latency.p50, latency.max) == pytest.approx((50.5, 50.5, 100))
    assert (latency.p90, latency.p99) == pytest.approx((90.1, 99.01))
    assert (sample.requests_per_second, sample.rows_per_second) == (25, 75)


def test_a_run_that_answered_many_requests_counts_once():
    recorder = Recorder()
    for _ in range(4):
        recorder.record(Receipt(batch_rows=8, batch_requests=4, queue_us=10, batch_wait_us=5, compute_us=100), 0.001)
    recorder.record(Receipt(batch_rows=1, batch_requests=1, queue_us=60, compute_us=20), 0.001)
    runs = sample_of(recorder).runs
    assert (runs.rows, runs.requests, runs.most_rows) == pytest.approx((4.5, 2.5, 8))
    assert (runs.queue_us, runs.batch_wait_us, runs.compute_us) == pytest.approx((20, 4, 84))


def test_the_rows_in_the_server_are_its_receipts_times_over_the_time():
    recorder = Recorder()
    for _ in range(6):
        recorder.record(Receipt(batch_requests=3, queue_us=200_000, batch_wait_us=50_000, compute_us=250_000), 0.7)
    for _ in range(2):
        recorder.record(Receipt(batch_requests=1, compute_us=1_000_000), 1.2)
    assert sample_of(recorder, seconds=2.0, rows=3).rows_in_server == pytest.approx(3 * (6 * 0.5 + 2 * 1) / 2)


def test_errors_are_counted_by_code_and_are_no_part_of_latency_or_throughput():
    recorder = Recorder()
    recorder.record(ALONE, 0.001)
    for message in ("the queue is full", "it still is"):
        recorder.record(ResourceExhausted(grpc.StatusCode.RESOURCE_EXHAUSTED, message), 5.0)
    sample = sample_of(recorder)
    assert sample.errors == {"RESOURCE_EXHAUSTED": 2}
    assert sample.messages == {"RESOURCE_EXHAUSTED": "the queue is full"}
    assert (sample.requests, sample.succeeded, sample.failed) == (3, 1, 2)
    assert sample.latency.max == pytest.approx(1)
    assert sample.requests_per_second == 0.5


def test_without_an_answer_there_are_no_figures():
    sample = sample_of(Recorder(), seconds=0.0)
    assert (sample.requests, sample.requests_per_second) == (0, 0)
    assert (sample.latency, sample.runs, sample.rows_in_server) == (None, None, None)


def test_late_requests_are_counted_with_the_worst_delay():
    recorder = Recorder()
    for delay in (0.0, 0.0005, 0.002, 0.25):
        recorder.sent(delay)
    sample = sample_of(recorder)
    assert sample.late == 2
    assert sample.worst_delay_ms == pytest.approx(250)


@pytest.mark.parametrize(("load", "fell_behind"), [(Rate(11), True), (Rate(10), False), (Callers(5), False)])
def test_a_rate_that_was_not_answered_as_fast_is_known(load, fell_behind):
    recorder = Recorder()
    for _ in range(20):
        recorder.record(ALONE, 0.001)
    assert sample_of(recorder, load).fell_behind is fell_behind


def test_the_cpu_time_of_this_process_is_given_in_cores():
    began, meter, used = time.perf_counter(), Meter(), time.process_time()
    while time.process_time() - used < 0.1:
        sum(range(10_000))
    use = meter.read()
    assert use.own >= 0.1 / (time.perf_counter() - began)
    assert 0 < use.machine <= 1
