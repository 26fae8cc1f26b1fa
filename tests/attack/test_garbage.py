"""Bytes that are no message, on every method: each is its caller's fault, and others are answered meanwhile."""

import logging
import random
import threading

import grpc
import numpy as np
import pytest

from onnxserve.errors import from_rpc_error
from support import zoo

PREDICT = "/onnxserve.v1.InferenceService/Predict"
UNARY = [
    PREDICT,
    "/onnxserve.v1.ModelService/GetModel",
    "/onnxserve.v1.ModelService/ListModels",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
STREAMS = ["/grpc.health.v1.Health/Watch", REFLECTION]
REFUSED = {(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"), (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")}
CUT_SHORT = b"\xff\xff"
MODELS = {"double": zoo.double()}


@pytest.fixture
def messages(attack):
    """Random bytes, the same ones in each run."""
    rng = random.Random(0)
    made = [rng.randbytes(rng.randrange(40)) for _ in range(attack.size(300, 30_000))]
    attack.count("messages of random bytes", len(made))
    return made


def outcome(call):
    """Code and reason that a call ends with."""
    error = call.exception()
    return (call.code(), from_rpc_error(error).reason) if error else (call.code(), "")


def ask(server):
    assert server.client.predict("double", {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]


def test_random_bytes_are_the_callers_fault_and_others_are_answered(server, channel, messages):
    method = channel.unary_unary(PREDICT)
    for start in range(0, len(messages), 100):
        calls = [method.future(message, timeout=60) for message in messages[start : start + 100]]
        ask(server)
        assert {outcome(call) for call in calls} <= REFUSED


@pytest.mark.parametrize("method", UNARY)
def test_what_is_no_message_is_the_callers_fault(channel, caplog, method):
    call = channel.unary_unary(method).future(CUT_SHORT, timeout=60)
    assert outcome(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("edge", ["lane", "plain"])
def test_what_is_no_message_ends_a_stream_and_the_server_stops_in_time(launch, edge):
    server = launch(MODELS, "--edge", edge, "--drain-timeout", 20)
    never = threading.Event()

    def list_services():
        yield b"\x3a\x00"
        never.wait(60)

    with grpc.insecure_channel(server.address) as channel:
        for method in STREAMS:
            call = channel.stream_stream(method)(iter((CUT_SHORT,)), timeout=60)
            with pytest.raises(grpc.RpcError) as raised:
                next(call)
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert from_rpc_error(raised.value).reason == "INVALID_REQUEST"
        idle = [channel.stream_stream(REFLECTION)(list_services(), timeout=60) for _ in range(3)]
        assert all(next(call) for call in idle)
        assert server.stop(timeout=15)[0] == 0
        never.set()
    assert [line for line in server.log.read_text().splitlines() if " INFO " not in line] == []
