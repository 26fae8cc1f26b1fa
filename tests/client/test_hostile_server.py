"""Servers whose answers contradict themselves or their requests, and one that answers nothing."""

import itertools
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import onnxserve
from onnxserve import tensor
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve.v1 import tensor_pb2

PREDICT = "/onnxserve.v1.InferenceService/Predict"
STREAM = "/onnxserve.v1.InferenceService/Stream"
X = {"x": np.ones((1, 2), np.float32)}
FLOAT, STRING = tensor_pb2.DATA_TYPE_FLOAT, tensor_pb2.DATA_TYPE_STRING
SOON = 30.0  # seconds: what would wait for ever takes longer


def y(**fields):
    return tensor_pb2.Tensor(**{"name": "y", "data_type": FLOAT, "shape": [1, 2], "data": bytes(8)} | fields)


BROKEN = {
    "too few bytes": [y(data=bytes(4))],
    "too many bytes": [y(data=bytes(12))],
    "bytes of half an element": [y(data=bytes(7))],
    "a size below 0": [y(shape=[-1, 2])],
    "huge sizes": [y(shape=[1 << 62, 1 << 62])],
    "an unknown type": [y(data_type=99)],
    "no type": [y(data_type=0)],
    "too few strings": [y(data_type=STRING, data=b"", strings=[b"a"])],
    "strings that are not UTF-8": [y(data_type=STRING, data=b"", strings=[b"\xff", b"a"])],
    "one name twice": [y(), y()],
    "another output": [y(name="z")],
    "no output": [],
}


def response_of(request, outputs):
    return inference.PredictResponse(model="m", version="1", request_id=request.request_id, outputs=outputs)


class Hostile:
    """Answers requests as a test says: with `outputs`, and streams with what `answers` makes of a request."""

    def __init__(self, serve):
        self.outputs = [y()]
        self.answers = lambda request: [self.answer(request)]
        self.sent = 0
        self.left = threading.Event()
        self.address = serve({PREDICT: self._predict, STREAM: self._stream}, workers=8)

    def answer(self, request, **fields):
        response = response_of(request.predict, self.outputs)
        known = {"request_id": request.predict.request_id, "response": response, "final": True}
        return inference.StreamResponse(**known | fields)

    def _predict(self, message, _):
        return response_of(inference.PredictRequest.FromString(message), self.outputs).SerializeToString()

    def _stream(self, messages, context):
        context.add_callback(self.left.set)
        for message in messages:
            request = inference.StreamRequest.FromString(message)
            for answer in self.answers(request) if request.HasField("predict") else ():
                self.sent += 1
                yield answer.SerializeToString()


@pytest.fixture
def hostile(serve):
    return Hostile(serve)


@pytest.mark.parametrize("outputs", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_contradicts_itself_or_the_request_is_one_error(hostile, either, outputs):
    hostile.outputs = outputs
    client = either.connect(hostile.address)
    with pytest.raises(onnxserve.InvalidAnswer, match="the server's answer is invalid: ") as caught:
        client.predict("m", X, outputs=["y"], request_id="mine")
    assert (caught.value.reason, caught.value.request_id) == ("INVALID_ANSWER", "mine")
    if outputs and outputs[0].name == "y":
        with pytest.raises(onnxserve.InvalidAnswer):
            list(client.stream("m", [X]))
        with client.sequence("m") as sequence, pytest.raises(onnxserve.InvalidAnswer):
            sequence.step(X)


def test_the_answer_to_another_request_is_an_error(hostile, either):
    hostile.outputs = [y()]
    client = either.connect(hostile.address)
    hostile.answers = lambda request: [hostile.answer(request, request_id="another")]
    with pytest.raises(onnxserve.InvalidAnswer, match="'another'"):
        list(client.stream("m", [X]))
    with client.sequence("m") as sequence, pytest.raises(onnxserve.InvalidAnswer, match="'another'"):
        sequence.step(X)


def test_an_answer_after_the_last_one_is_an_error(hostile, either):
    client = either.connect(hostile.address)
    hostile.answers = lambda request: [hostile.answer(request)] * 2
    with client.sequence("m") as sequence, pytest.raises(onnxserve.InvalidAnswer):
        for _ in range(2):
            sequence.step(X)
    with pytest.raises(onnxserve.InvalidAnswer):
        list(client.stream("m", [X] * 2))


def test_a_snapshot_that_was_asked_for_and_does_not_come_is_an_error(hostile, either):
    client = either.connect(hostile.address)
    with client.sequence("m") as sequence, pytest.raises(onnxserve.InvalidAnswer, match="lacks the state"):
        sequence.step(X, snapshot=True)


def test_a_generation_ends_after_its_steps_and_closing_it_in_time(hostile, either):
    """The server goes on for ever, and takes no notice of a cancellation."""
    hostile.answers = lambda request: (hostile.answer(request, final=False) for _ in itertools.count())
    client = either.connect(hostile.address)
    answers = []
    with pytest.raises(onnxserve.InvalidAnswer, match="answer 5 to at most 5 steps is not the last"):
        answers.extend(client.generate("m", X, max_steps=5))
    assert hostile.left.wait(SOON)
    begun = time.monotonic()
    generation = client.generate("m", X, max_steps=10_000, timeout=None)
    next(generation)
    generation.close()
    with client.sequence("m", timeout=None) as sequence:
        generation = sequence.generate(X, max_steps=10_000)
        next(generation)
        generation.close()
    client.close()
    assert time.monotonic() - begun < SOON


def test_a_generation_whose_server_falls_silent_is_closed_in_time(hostile, either):
    def first_only(request):
        yield hostile.answer(request, final=False)
        hostile.left.wait(2 * SOON)

    hostile.answers = first_only
    client = either.connect(hostile.address)
    generation = client.generate("m", X, max_steps=10, timeout=None)
    next(generation)
    begun = time.monotonic()
    generation.close()
    assert time.monotonic() - begun < SOON


def test_a_state_that_is_handed_over_twice_is_an_error(hostile, either):
    handoff = inference.StreamResponse()
    handoff.handoff.SetInParent()
    hostile.answers = lambda request: itertools.repeat(handoff)
    client = either.connect(hostile.address)
    with client.sequence("m") as sequence, pytest.raises(onnxserve.InvalidAnswer, match="twice"):
        sequence.step(X)


def test_a_stream_whose_answers_are_all_there_ends_although_the_server_does_not_end_it(hostile, either):
    def answer_and_wait(request):
        yield hostile.answer(request)
        hostile.left.wait(2 * SOON)

    hostile.answers = answer_and_wait
    client = either.connect(hostile.address)
    assert len([*client.stream("m", [X], timeout=0.5)]) == 1


SERVER = """
import sys
from onnxserve import testing

with testing.serve({"m": testing.Model(sequence=lambda: lambda inputs: {"y": inputs["x"]})}) as server:
    print(server.target, flush=True)
    sys.stdin.read()
"""
CALLS = {
    "predict": lambda client, sequence: client.predict("m", X, timeout=1),
    "stream": lambda client, sequence: list(client.stream("m", [X] * 3, timeout=1)),
    "step": lambda client, sequence: sequence.step(X),
    "first step": lambda client, sequence: client.sequence("m", timeout=1).step(X),
    "generate": lambda client, sequence: list(client.generate("m", X, max_steps=3, timeout=1)),
    "models": lambda client, sequence: client.models(timeout=1),
    "model": lambda client, sequence: client.model("m", timeout=1),
}


@pytest.fixture
def process():
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as made:
        made.target = made.stdout.readline().strip()
        yield made
        made.kill()


def test_every_kind_of_call_ends_at_its_timeout_if_its_server_is_stopped(process, either):
    client, fresh = either.connect(process.target), either.connect(process.target, options=[("x", 1)])
    sequence = client.sequence("m", timeout=1)
    sequence.step(X)
    process.send_signal(signal.SIGSTOP)
    for name, call in CALLS.items():
        for each in [client] if name == "step" else [client, fresh]:
            begun = time.monotonic()
            with pytest.raises(onnxserve.DeadlineExceeded):
                call(each, sequence)
            assert 0.9 < time.monotonic() - begun < SOON, name
    assert client.ready(timeout=1) is False
    errors = list(client.stream("m", [X] * 3, timeout=1, return_errors=True))
    assert [type(each) for each in errors] == [onnxserve.DeadlineExceeded] * 3
    with pytest.raises(onnxserve.FailedPrecondition):
        sequence.step(X)
    begun = time.monotonic()
    sequence.close()
    client.close()
    fresh.close()
    assert time.monotonic() - begun < SOON


def test_the_encoded_answer_of_these_tests_is_valid(hostile, either):
    client = either.connect(hostile.address)
    assert client.predict("m", X, outputs=["y"])["y"].tolist() == tensor.decode(y()).tolist()
    assert len([*client.stream("m", [X] * 3)]) == 3
