"""A request whose caller names no deadline has the server's, if it sets one."""

import contextlib

import grpc
import numpy as np
import pytest

from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.errors import Code
from support import zoo
from support.asking import Http
from support.streaming import Line, error_of, step

MINUTES = 1_000_000  # steps of the model
MODELS = {"slow": zoo.slow(), "counter": zoo.slow_counter()}


@pytest.fixture
def limited(serve):
    """A server with a default timeout; afterwards nothing runs."""
    server = serve(MODELS, {"counter": "state: auto"}, default_timeout=0.3, http_port=0)
    yield server
    for model in MODELS:
        server.wait_for(model, lambda load: load.running_jobs == 0)


def test_a_call_has_it(limited):
    ended = limited.send("slow", x=np.full((1, 1), MINUTES, np.float32)).exception(timeout=60)
    assert ended.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_callers_own_deadline_counts_alone(limited):
    prediction = limited.send("slow", deadline=600, x=np.full((1, 1), 1500, np.float32)).result(timeout=600)
    assert prediction.receipt.compute_us > 0.3e6


def test_each_request_of_a_stream_has_it(limited):
    x = encode("x", np.full((1, 1), MINUTES, np.float32))
    request = inference.StreamRequest(predict=inference.PredictRequest(model="slow", inputs=[x]))
    with contextlib.closing(Line(limited.stub, timeout=None)) as line:
        assert [error_of(line.ask(request))[0] for _ in range(2)] == [Code.DEADLINE_EXCEEDED] * 2


def test_each_step_of_a_sequence_has_it(limited):
    with contextlib.closing(Line(limited.stub, timeout=None)) as line:
        slow = step("s", MINUTES, model="counter", shape=(1, 1))
        assert error_of(line.ask(slow))[0] == Code.DEADLINE_EXCEEDED


def test_a_prediction_by_http_has_it(limited):
    http = Http(limited.app.http_port)
    status, reply = http.predict({"model": "slow", "inputs": {"x": {"data": [[MINUTES]]}}})
    assert (status, reply["reason"]) == (504, "DEADLINE_EXCEEDED")
    assert http.fetch_status()["default_timeout"] == 0.3
