"""Calls that are retried, and those that are not."""

import asyncio
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

import onnxserve
from onnxserve import _aio, _client
from onnxserve._retrying import Attempts, Failure, RetryPolicy
from onnxserve._turns import TURNS, Turns
from onnxserve.testing._status import status_of
from onnxserve.v1 import inference_service_pb2
from support.ports import free_port
from support.waiting import until

INPUTS = {"x": np.arange(4, dtype=np.float32)}
PREDICT = "/onnxserve.v1.InferenceService/Predict"
CHECK = "/grpc.health.v1.Health/Check"


def echo(request, _):
    """Answer with the inputs as the outputs."""
    read = inference_service_pb2.PredictRequest.FromString(request)
    return inference_service_pb2.PredictResponse(
        model=read.model,
        version=read.version or "1",
        request_id=read.request_id,
        outputs=read.inputs,
    ).SerializeToString()


def trailers_of(reason, delay=None):
    error = onnxserve.Unavailable(grpc.StatusCode.UNAVAILABLE, "not now", reason=reason, retry_delay=delay)
    return (("grpc-status-details-bin", status_of(error, "").SerializeToString()),)


DRAINING = trailers_of("DRAINING", 0.001)


class Failing:
    """Fails a number of calls, then echoes."""

    def __init__(self, times, code, trailers=()):
        self.calls = 0
        self._times, self._code, self._trailers = times, code, trailers

    def __call__(self, request, context):
        self.calls += 1
        if self.calls > self._times:
            return echo(request, context)
        context.set_trailing_metadata(self._trailers)
        return context.abort(self._code, "not now")


@pytest.mark.parametrize("retries", [-1, 5, 9, 2.0, True, "3", None])
def test_retries_that_make_no_sense_are_refused(retries):
    with pytest.raises(ValueError, match=f"retries must be a whole number from 0 to 4, not {retries!r}"):
        onnxserve.Client("localhost:1", retries=retries)


@pytest.mark.parametrize(
    ("code", "trailers"), [(grpc.StatusCode.UNAVAILABLE, DRAINING), (grpc.StatusCode.CANCELLED, ())]
)
def test_a_server_that_stops_is_tried_again(serve, code, trailers):
    server = Failing(2, code, trailers)
    with onnxserve.Client(serve(server)) as client:
        assert client.predict("m", INPUTS)["x"].tolist() == [0, 1, 2, 3]
    assert server.calls == 3


def test_one_replica_of_two_that_fails_does_not_use_up_the_retries(serve):
    """In turn with the other one, as seen from a client; the retries' tokens last for fifty failures beyond."""
    replica = Failing(200, grpc.StatusCode.UNAVAILABLE, [("grpc-retry-pushback-ms", "1")])
    in_turn = itertools.cycle([replica, echo])

    def either(request, context):
        return next(in_turn)(request, context)

    with onnxserve.Client(serve(either)) as client:
        for _ in range(200):
            client.predict("m", INPUTS)
    assert replica.calls == 200


def test_a_large_request_is_tried_again_too(serve):
    server = Failing(1, grpc.StatusCode.UNAVAILABLE)
    large = np.ones(500_000, np.float32)  # grpc's own limit for what it tries again is 256 KiB
    with onnxserve.Client(serve(server)) as client:
        assert client.predict("m", {"x": large})["x"].sum() == 500_000
    assert server.calls == 2


def test_the_async_client_tries_again_too(serve):
    server = Failing(1, grpc.StatusCode.UNAVAILABLE)

    async def call():
        async with onnxserve.AsyncClient(serve(server)) as client:
            return await client.predict("m", INPUTS)

    assert asyncio.run(call())["x"].tolist() == [0, 1, 2, 3]
    assert server.calls == 2


@pytest.mark.parametrize(
    ("code", "retries", "trailers", "calls"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 3, (), 1),
        (grpc.StatusCode.INTERNAL, 3, (), 1),
        (grpc.StatusCode.UNAVAILABLE, 0, (), 1),
        (grpc.StatusCode.UNAVAILABLE, 1, (), 2),
        (grpc.StatusCode.UNAVAILABLE, 3, [("grpc-retry-pushback-ms", "-1")], 1),
        (grpc.StatusCode.UNAVAILABLE, 3, [("grpc-retry-pushback-ms", "1")], 4),
    ],
    ids=["full", "internal", "retries off", "retries used up", "pushback: never", "pushback: 1 ms"],
)
def test_retries_keep_to_the_policy_and_to_the_servers_pushback(serve, code, retries, trailers, calls):
    server = Failing(100, code, trailers)
    with onnxserve.Client(serve(server), retries=retries) as client, pytest.raises(onnxserve.OnnxserveError) as caught:
        client.predict("m", INPUTS)
    assert caught.value.code == code
    assert server.calls == calls


def test_a_server_that_says_why_it_refuses_is_asked_within_the_timeout_however_often(serve, either):
    server = Failing(8, grpc.StatusCode.UNAVAILABLE, trailers_of("MODEL_STOPPED", 0.001))
    client = either.connect(serve(server), retries=1)
    assert client.predict("m", INPUTS)["x"].tolist() == [0, 1, 2, 3]
    assert server.calls == 9


def test_a_refusal_that_outlasts_the_timeout_is_the_error(serve, either):
    server = Failing(1_000_000, grpc.StatusCode.UNAVAILABLE, trailers_of("DRAINING", 0.05))
    client = either.connect(serve(server))
    with pytest.raises(onnxserve.Unavailable) as caught:
        client.predict("m", INPUTS, timeout=0.5)
    assert caught.value.reason == "DRAINING"
    assert server.calls < 10


@pytest.mark.parametrize("trailers", [trailers_of("DRAINING", 0.4), [("grpc-retry-pushback-ms", "400")]])
def test_no_retry_comes_earlier_than_the_server_asks_for(serve, either, trailers):
    server, times = Failing(1, grpc.StatusCode.UNAVAILABLE, trailers), []

    def note(request, context):
        times.append(time.monotonic())
        return server(request, context)

    either.connect(serve(note)).predict("m", INPUTS)
    first, second = times
    assert second - first >= 0.4


@pytest.mark.parametrize("failures", [1, 2])
def test_a_request_whose_connection_broke_is_sent_once_more_and_not_more(serve, either, failures):
    server = Failing(failures, grpc.StatusCode.UNAVAILABLE)
    client = either.connect(serve(server), retries=4)
    if failures == 1:
        assert client.predict("m", INPUTS)["x"].tolist() == [0, 1, 2, 3]
    else:
        with pytest.raises(onnxserve.ServersBroke, match=r"two servers broke.*\(not now\)") as caught:
            client.predict("m", INPUTS, request_id="mine")
        assert (caught.value.reason, caught.value.request_id) == ("SERVERS_BROKE", "mine")
    assert server.calls == 2


def test_a_refusal_by_something_that_is_no_server_of_ours_is_a_break(serve, either):
    info = error_details_pb2.ErrorInfo(reason="DRAINING", domain="proxy.example.com")
    status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0])
    status.details.add().Pack(info)
    server = Failing(9, grpc.StatusCode.UNAVAILABLE, [("grpc-status-details-bin", status.SerializeToString())])
    client = either.connect(serve(server))
    with pytest.raises(onnxserve.ServersBroke):
        client.predict("m", INPUTS)
    assert server.calls == 2


@pytest.mark.parametrize("failures", [0, 30])
def test_a_request_that_broke_is_sent_in_its_turn_once_a_server_is_reached(serve, either, failures, monkeypatch):
    server, checks = Failing(1, grpc.StatusCode.UNAVAILABLE), Failing(failures, grpc.StatusCode.UNAVAILABLE)
    turns, between = [], []

    def pause(_):
        between.append(len(TURNS._queue))
        return 0.001

    def predict(request, context):
        turns.append(len(TURNS._queue))
        return server(request, context)

    monkeypatch.setattr(_client, "retry_delay", pause)
    monkeypatch.setattr(_aio, "retry_delay", pause)
    client = either.connect(serve({PREDICT: predict, CHECK: checks}))
    assert client.predict("m", INPUTS)["x"].tolist() == [0, 1, 2, 3]
    assert checks.calls == failures + 1
    assert (turns, between) == ([0, 1], [0] * failures)


def test_a_request_that_broke_waits_for_a_server_no_longer_than_its_timeout(serve, either):
    server = Failing(9, grpc.StatusCode.UNAVAILABLE)
    client = either.connect(serve({PREDICT: server, CHECK: Failing(1_000_000, grpc.StatusCode.UNAVAILABLE)}))
    with pytest.raises(onnxserve.OnnxserveError) as caught:
        client.predict("m", INPUTS, timeout=0.5)
    assert caught.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert not TURNS._queue


def test_without_a_connection_a_call_waits_for_one_until_its_timeout(either):
    client = either.connect(f"127.0.0.1:{free_port()}")
    with pytest.raises(onnxserve.Unavailable, match=r"no server was reached: .*refused"):
        client.predict("m", INPUTS, timeout=0.5)


def test_without_retries_a_call_without_a_connection_fails_at_once(either):
    client = either.connect(f"127.0.0.1:{free_port()}", retries=0)
    with pytest.raises(onnxserve.Unavailable, match="refused"):
        client.predict("m", INPUTS, timeout=None)


def test_health_is_that_of_the_moment(either):
    client = either.connect(f"127.0.0.1:{free_port()}")
    assert client.ready(timeout=None) is False


def test_while_half_of_the_tokens_are_gone_no_broken_request_is_sent_again():
    policy = RetryPolicy(3)
    for _ in range(49):
        assert Attempts(policy, None).delay_after(policy.judge(_Broken())) < 1
    for _ in range(2):
        with pytest.raises(onnxserve.Unavailable, match="Socket closed") as caught:
            Attempts(policy, None).delay_after(policy.judge(_Broken()))
        assert caught.type is onnxserve.Unavailable
    for _ in range(3):
        policy.note_answer()
    assert Attempts(policy, None).delay_after(policy.judge(_Broken())) < 1


def test_a_second_break_is_told_apart_also_while_half_of_the_tokens_are_gone():
    policy = RetryPolicy(3)
    attempts = Attempts(policy, None)
    attempts.delay_after(policy.judge(_Broken()))
    for _ in range(100):
        policy.judge(_Broken())
    assert policy.exhausted
    with pytest.raises(onnxserve.ServersBroke):
        attempts.delay_after(policy.judge(_Broken()))


class _Broken(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "Socket closed"

    def trailing_metadata(self):
        return ()


def test_a_client_that_is_closed_ends_a_wait_for_the_next_attempt(serve):
    refused = threading.Event()

    def refuse(_, context):
        refused.set()
        context.set_trailing_metadata(trailers_of("DRAINING", 50.0))
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    client = onnxserve.Client(serve(refuse))
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.predict, "m", INPUTS, timeout=None)
        assert refused.wait(60)
        client.close()
        assert isinstance(call.exception(20), onnxserve.Cancelled)


def test_requests_that_broke_take_turns_of_the_whole_process():
    turns, order = Turns(), []
    begun, go_on = threading.Event(), threading.Event()

    def first():
        with turns.turn():
            begun.set()
            assert go_on.wait(60)
            order.append("first")

    def second():
        with turns.turn():
            order.append("second")

    async def third():
        async with turns.async_turn():
            order.append("third")

    with ThreadPoolExecutor(3) as threads:
        made = [threads.submit(first)]
        assert begun.wait(60)
        for number, work in enumerate((second, lambda: asyncio.run(third())), 2):
            made.append(threads.submit(work))
            until(lambda number=number: len(turns._queue) == number)
        go_on.set()
        for each in made:
            each.result(60)
    assert order == ["first", "second", "third"]


def test_a_request_waits_no_longer_for_its_turn_than_its_timeout():
    turns = Turns()
    with turns.turn(), turns.turn(0.01):
        assert len(turns._queue) == 2
    assert not turns._queue


@pytest.mark.parametrize("retries", [0, 3])
def test_what_the_server_s_grpc_never_started_is_sent_again_and_takes_no_token(retries):
    class Refused(grpc.RpcError):
        code = staticmethod(lambda: grpc.StatusCode.UNAVAILABLE)
        details = staticmethod(lambda: "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))")
        trailing_metadata = staticmethod(tuple)

    policy = RetryPolicy(retries)
    for _ in range(200):
        assert policy.judge(Refused()).failure is Failure.UNSTARTED
    assert not policy.exhausted
