"""The handler of unary calls without a network: it decodes, submits, encodes and replies, once, whatever happens."""

import math

import pytest

from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.core import Request, Result
from onnxserve_server.edge import onnxserve_v1
from onnxserve_server.edge.predict import Predict
from onnxserve_server.edge.unsent import UnsentAnswers
from support.calls import Watching, predict


class FakeCall:
    """A calls.Call that keeps its one outcome: the bytes of a reply, or a status."""

    metadata = ()

    def __init__(self, deadline=math.inf):
        self.deadline = deadline
        self.on_cancel = None
        self.outcomes = []

    def reply(self, message):
        self.outcomes.append(message)

    def fail(self, status):
        self.outcomes.append(status)

    @property
    def outcome(self):
        (outcome,) = self.outcomes
        return outcome


def handle(server, message, codec=onnxserve_v1, observer=None):
    call = FakeCall()
    Predict("Ask", codec, server.engine, UnsentAnswers(1 << 30), observer)(call, message)
    return call


def request(request_id="", **fields):
    return predict(request_id, **fields).predict.SerializeToString()


def test_a_request_is_run_and_its_reply_carries_its_name(stage):
    server = stage()
    call = handle(server, request("r", value=3.0))
    assert not call.outcomes
    server.run()
    response = inference.PredictResponse.FromString(call.outcome)
    assert (response.request_id, response.model, len(response.outputs)) == ("r", "double", 1)


def test_bytes_that_are_no_message_end_the_call_and_say_what_was_expected(stage):
    status = handle(stage(), b"\xff\xff").outcome
    assert status.code.name == "INVALID_ARGUMENT"
    assert status.details.startswith("request: not a valid PredictRequest: ")


def test_a_caller_that_leaves_takes_its_request_along(stage):
    server = stage()
    call = handle(server, request())
    assert server.queued() == 1
    call.on_cancel()
    assert server.queued() == 0
    assert call.outcome.code.name == "CANCELLED"


class Words:
    """The codec of another protocol: the name of a model asks for it; the reply is that name in capitals."""

    @staticmethod
    def decode_request(message, deadline, clock):
        model = message.decode()
        inputs = onnxserve_v1.decode_request(request(), deadline, clock).inputs
        return Request(model, "", inputs, request_id="word")

    @staticmethod
    def encode_result(result, request_id):
        return f"{request_id}: {result.model.upper()}".encode()


def test_a_call_speaks_the_protocol_of_its_codec(stage):
    server = stage()
    call = handle(server, b"other", Words)
    server.run("other")
    assert call.outcome == b"word: OTHER"


def test_a_result_that_cannot_be_encoded_ends_the_call_with_an_error(stage, monkeypatch, caplog):
    server = stage()
    call = handle(server, request("mine"))
    monkeypatch.setattr(onnxserve_v1, "encode_result", lambda result, request_id: 1 / 0)
    server.run()
    assert call.outcome.code.name == "INTERNAL"
    assert "division" not in call.outcome.details
    assert "'mine'" in caplog.text


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        (request("r"), ("Ask", "double", "r", "OK")),
        (request("r", model="nobody"), ("Ask", "nobody", "r", "NOT_FOUND")),
        (b"\xff", ("Ask", "", "", "INVALID_ARGUMENT")),
    ],
    ids=["result", "error", "no message"],
)
def test_an_observer_sees_each_call_once_by_the_name_of_its_method(stage, message, seen):
    server, observer = stage(), Watching()
    call = handle(server, message, observer=observer)
    if not call.outcomes:
        server.run()
    assert observer.answers == [seen]
    assert len(call.outcomes) == 1


def test_an_observer_sees_the_result_itself(stage):
    server, observer = stage(), Watching()
    handle(server, request(), observer=observer)
    server.run()
    assert isinstance(observer.outcomes[0], Result)
