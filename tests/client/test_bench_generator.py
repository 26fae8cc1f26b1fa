"""Loads on real servers; what is asserted is counts and order, never how long something takes."""

import itertools
import threading
import time

import grpc
import pytest

from onnxserve._bench.generator import Generator
from onnxserve._bench.load import Arrivals, Callers, Rate
from onnxserve.v1.inference_service_pb2 import PredictRequest, PredictResponse, Receipt

ANSWER = PredictResponse(receipt=Receipt(batch_rows=2, batch_requests=1, compute_us=7)).SerializeToString()
MESSAGES = [PredictRequest(model=name).SerializeToString() for name in ("a", "b", "c")]


class Server:
    """Answers, after `before(number)` for the requests from 0 on, and knows what came."""

    def __init__(self, serve, before=lambda number, context: None, workers=32):
        self.messages = []
        self.most_at_a_time = self._at_a_time = 0
        self._lock = threading.Lock()
        self._before = before
        self.address = serve(self._predict, workers)

    def _predict(self, message, context):
        with self._lock:
            number = len(self.messages)
            self.messages.append(message)
            self._at_a_time += 1
            self.most_at_a_time = max(self.most_at_a_time, self._at_a_time)
        try:
            self._before(number, context)
            return ANSWER
        finally:
            with self._lock:
                self._at_a_time -= 1


def generator(address, **settings):
    defaults = {"credentials": None, "messages": MESSAGES, "rows": 2, "timeout": 30.0, "stream": False}
    return Generator(**{"target": address, "warm_up": 0.0, "seconds": 0.3} | defaults | settings)


def ignore(share, answered, failed):
    pass


@pytest.mark.parametrize("load", [Callers(1), Callers(5), Rate(200), Rate(200, Arrivals.CONSTANT)], ids=str)
def test_every_request_that_the_server_saw_is_counted(serve, load):
    server = Server(serve)
    sample = generator(server.address).measure(load, ignore)
    assert sample.requests == sample.succeeded == len(server.messages) > 0
    assert sample.complete
    assert sample.rows_per_second == pytest.approx(2 * sample.requests_per_second)
    assert (sample.runs.rows, sample.runs.compute_us) == (2, 7)
    latency = sample.latency
    assert 0 < latency.p50 <= latency.p90 <= latency.p99 <= latency.max


def test_the_requests_are_sent_in_turn(serve):
    server = Server(serve)
    generator(server.address).measure(Callers(1), ignore)
    assert all(sent == due for sent, due in zip(server.messages, itertools.cycle(MESSAGES), strict=False))


def test_callers_have_one_request_out_each(serve):
    server = Server(serve)
    generator(server.address).measure(Callers(4), ignore)
    assert server.most_at_a_time <= 4


def test_what_comes_in_the_warm_up_is_not_counted(serve):
    server = Server(serve)
    sample = generator(server.address, warm_up=0.5).measure(Rate(40, Arrivals.CONSTANT), ignore)
    assert sample.requests == 12
    assert len(server.messages) == 20 + 12


def test_a_rate_waits_for_no_answer(serve):
    number = 20
    together = threading.Barrier(number)  # no request is answered before all have come
    server = Server(serve, before=lambda *_: together.wait(30))
    sample = generator(server.address).measure(Rate(number / 0.3, Arrivals.CONSTANT), ignore)
    assert (sample.requests, sample.succeeded) == (number, number)


def test_latency_counts_from_when_a_request_was_due_also_where_it_was_sent_late(serve):
    stalled = []

    def stall(share, answered, failed):
        if not stalled:
            stalled.append(time.sleep(0.25))

    server = Server(serve)
    sample = generator(server.address).measure(Rate(200, Arrivals.CONSTANT), stall)
    assert sample.late >= 40
    assert sample.worst_delay_ms >= 200
    assert sample.latency.max >= sample.worst_delay_ms
    assert sample.requests == len(server.messages) == 60


def test_requests_beyond_the_most_that_may_be_out_are_dropped_and_counted(serve):
    release = threading.Event()
    server = Server(serve, before=lambda *_: release.wait(60))

    def tell(share, answered, failed):
        if failed >= 5:
            release.set()

    sample = generator(server.address, max_out=3, seconds=1.0, timeout=60.0).measure(Rate(40, Arrivals.CONSTANT), tell)
    assert sample.dropped >= 5
    assert sample.requests == 40 == sample.succeeded + sample.dropped
    assert sample.succeeded == len(server.messages)


def test_errors_are_counted_by_code_beside_answers(serve):
    def refuse(number, context):
        if number % 3 == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        if number % 3 == 1:
            context.abort(grpc.StatusCode.INTERNAL, "it broke")

    server = Server(serve, before=refuse)
    sample = generator(server.address).measure(Rate(100, Arrivals.CONSTANT), ignore)
    assert sample.errors == {"RESOURCE_EXHAUSTED": 10, "INTERNAL": 10}
    assert sample.messages == {"RESOURCE_EXHAUSTED": "the queue is full", "INTERNAL": "it broke"}
    assert sample.succeeded == 10


def test_nothing_is_retried(serve):
    server = Server(serve, before=lambda _, context: context.abort(grpc.StatusCode.UNAVAILABLE, "not now"))
    sample = generator(server.address).measure(Callers(2), ignore)
    assert sample.errors == {"UNAVAILABLE": sample.requests}
    assert len(server.messages) == sample.requests


@pytest.mark.parametrize("stream", [False, True])
def test_requests_to_no_server_fail_one_by_one(stream):
    sample = generator("unix:/nonexistent/socket", stream=stream).measure(Rate(20, Arrivals.CONSTANT), ignore)
    assert sample.errors == {"UNAVAILABLE": 6}
    assert (sample.succeeded, sample.latency) == (0, None)


def test_a_request_that_takes_longer_than_its_timeout_is_an_error(serve):
    release = threading.Event()
    server = Server(serve, before=lambda *_: release.wait(30))
    try:
        sample = generator(server.address, timeout=0.1).measure(Callers(2), ignore)
    finally:
        release.set()
    assert sample.errors == {"DEADLINE_EXCEEDED": sample.requests}


def test_progress_is_reported_while_it_goes(serve):
    calls = []
    server = Server(serve)
    sample = generator(server.address, seconds=0.8).measure(Callers(1), lambda *progress: calls.append(progress))
    shares = [share for share, _, _ in calls]
    assert len(calls) > 1
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1
    assert calls[-1][1] <= sample.succeeded
