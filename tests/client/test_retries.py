"""Calls that are retried, and those that are not."""

import asyncio
import itertools

import grpc
import numpy as np
import pytest

import onnxserve
from onnxserve.testing._status import status_of
from onnxserve.v1 import inference_service_pb2

INPUTS = {"x": np.arange(4, dtype=np.float32)}


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
