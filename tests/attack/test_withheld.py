"""Calls and connections that bring nothing, or take nothing: others go on being answered."""

import contextlib

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from onnxserve import ResourceExhausted
from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2
from onnxserve_server.edge import lane
from support import http2, zoo
from support.asking import Http
from support.waiting import until

PREDICT, STREAM = "/onnxserve.v1.InferenceService/Predict", "/onnxserve.v1.InferenceService/Stream"
METHODS = [
    PREDICT,
    STREAM,
    "/onnxserve.v1.ModelService/GetModel",
    "/onnxserve.v1.ModelService/ListModels",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]
MODELS = {"double": zoo.double(), "wide": zoo.widening()}
SETTINGS = {"workers": 4}


@contextlib.contextmanager
def withheld(server, method, number):
    """So many calls whose message does not come."""
    with http2.Connection(server.address) as connection:
        connection.send(b"".join(http2.call(1 + 2 * i, method) for i in range(number)))
        connection.send(http2.frame(http2.PING, 0, 0, bytes(8)))
        next(frame for frame in connection.frames() if frame[:2] == (http2.PING, http2.ACK))  # it has read them
        yield connection


@contextlib.contextmanager
def unread(address, method, message, number):
    """So many calls whose answers are not read: the window is open and the socket is not."""
    wide_open = http2.setting(http2.INITIAL_WINDOW_SIZE, 2**31 - 1)
    with http2.Connection(address, wide_open) as connection:
        connection.send(http2.frame(http2.WINDOW_UPDATE, 0, 0, (2**31 - 1 - 65_535).to_bytes(4, "big")))
        connection.send(b"".join(http2.call(1 + 2 * i, method, message) for i in range(number)))
        yield connection


def ask(server, channel):
    """Each kind of call of another caller is answered."""
    assert server.client.predict("double", {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
    assert [model.name for model in server.client.models()] == sorted(MODELS)
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == health_pb2.HealthCheckResponse.SERVING
    assert next(health.Watch(health_pb2.HealthCheckRequest(), timeout=60)).status


@pytest.mark.parametrize("method", METHODS)
def test_calls_without_a_message_keep_nobody_out(server, channel, attack, method):
    number = attack.size(100, 250)
    attack.count("calls without a message", number)
    with withheld(server, method, number):
        ask(server, channel)
    until(lambda: server.app.grpc.edge.live_calls == 0)


def waiting(server):
    """How many calls wait for their message."""
    return len(server.app.grpc._pool._waiting) + len(getattr(server.app.grpc.edge, "receiving", ()))


def test_of_too_many_calls_without_a_message_the_first_are_ended(server, channel, monkeypatch):
    monkeypatch.setattr(lane, "MAX_RECEIVING", 20)
    monkeypatch.setattr(server.app.grpc._pool, "_max_waiting", 20)
    for method in (PREDICT, "/onnxserve.v1.ModelService/GetModel"):
        streams = [1 + 2 * i for i in range(30)]
        with http2.Connection(server.address) as connection:
            connection.send(b"".join(http2.call(stream, method) for stream in streams[:20]))
            until(lambda: waiting(server) == 20)
            connection.send(b"".join(http2.call(stream, method) for stream in streams[20:]))
            ended = (stream for kind, flags, stream, _ in connection.frames() if kind == http2.HEADERS and flags & 1)
            assert {next(ended) for _ in range(10)} <= set(streams[:20])
            ask(server, channel)
        until(lambda: waiting(server) == 0)
    until(lambda: server.app.grpc.edge.live_calls == 0)


def test_answers_that_are_not_read_are_given_up_for_others(serving, tmp_path, attack):
    number = attack.size(60, 250)
    attack.count("answers of 1 MB that are not read", number)
    root = zoo.write(tmp_path, MODELS)
    with serving(root, edge="lane", all_unsent_bytes=20 << 20) as server:
        message = request("wide", 1)
        unsent = server.app.grpc.edge.unsent
        with unread(server.address, PREDICT, message, number):
            until(lambda: unsent.nbytes > 10 << 20, 60)
            for _ in range(10):
                assert server.client.predict("double", {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
            until(lambda: large_is_answered(server), 60)
        until(lambda: server.app.grpc.edge.live_calls == 0)
        assert unsent.nbytes == 0


@pytest.mark.parametrize("edge", ["lane", "plain"])
def test_an_answer_that_is_given_up_says_why(serving, tmp_path, edge):
    with serving(zoo.write(tmp_path, MODELS), edge=edge, all_unsent_bytes=20 << 20) as server:
        message, unsent = request("wide", 1), server.app.grpc.edge.unsent
        predict = inference_service_pb2.PredictRequest.FromString(message)
        streamed = inference_service_pb2.StreamRequest(predict=predict).SerializeToString()
        for method, sent in ((PREDICT, message), (STREAM, streamed)):
            with http2.Connection(server.address) as connection:  # its windows of 64 KiB stay closed
                connection.send(b"".join(http2.call(1 + 2 * i, method, sent) for i in range(10)))
                until(lambda: unsent.nbytes > 20 << 20, 60)
                until(lambda: large_is_answered(server), 60)
                frames = connection.frames()
                ends = (payload for kind, flags, _, payload in frames if kind == http2.HEADERS and flags & 1)
                assert b"all-unsent-bytes" in next(ends)
            until(lambda: unsent.nbytes == 0, 60)


def large_is_answered(server):
    """Whether there is room for an answer of a megabyte."""
    try:
        return server.client.predict("wide", {"x": np.ones((1, 1), np.float32)})["y"].size == 250_000
    except ResourceExhausted:
        return False


@pytest.mark.parametrize("edge", ["lane", "plain"])
def test_an_answer_that_is_refused_is_an_error_with_its_reason(serving, tmp_path, monkeypatch, edge):
    with serving(zoo.write(tmp_path, MODELS), edge=edge, all_unsent_bytes=20 << 20, http_port=0) as server:
        unsent = server.app.grpc.edge.unsent
        monkeypatch.setattr(unsent, "nbytes", 30 << 20)  # as if others did not read theirs
        with pytest.raises(ResourceExhausted, match="--all-unsent-bytes") as error:
            server.client.predict("wide", {"x": np.ones((1, 1), np.float32)})
        assert error.value.reason == "TOO_SLOW"
        http = Http(server.app.http_port)  # counted when it is out: its caller may be faster
        until(lambda: b'rpc_response_status_code="RESOURCE_EXHAUSTED"' in http.ask("/metrics")[2], 60)
        monkeypatch.setattr(unsent, "nbytes", 0)


def request(model, columns):
    x = encode("x", np.ones((1, columns), np.float32))
    return inference_service_pb2.PredictRequest(model=model, inputs=[x]).SerializeToString()
