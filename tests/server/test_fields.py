"""Messages that would become far more than their bytes are refused by counting them, and honest ones are not."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.edge import fields
from onnxserve_server.edge.fields import check_fields
from onnxserve_server.edge.messages import parse
from onnxserve_server.errors import InvalidRequest
from support import bombs

MANY = 2 * fields.MAX_STRINGS + 1
LARGE = bombs.delimited(2, b"v" * fields.SMALL)  # a version: a message that has it is counted


def violation(kind, message):
    with pytest.raises(InvalidRequest) as raised:
        parse(kind, message)
    ((place, text),) = raised.value.violations
    return place, text


@pytest.mark.parametrize(("make", "place"), bombs.REQUESTS.values(), ids=bombs.REQUESTS)
def test_a_message_of_countless_fields_is_refused(make, place):
    where, text = violation(inference.PredictRequest, make(MANY))
    assert where == place
    assert "more than" in text


@pytest.mark.parametrize(("make", "place"), bombs.STREAM_REQUESTS.values(), ids=bombs.STREAM_REQUESTS)
def test_what_a_stream_sends_is_counted_too(make, place):
    assert violation(inference.StreamRequest, make(MANY))[0] == place


def test_large_tensors_and_many_strings_are_no_bombs():
    words = np.full(200_000, "word", object)
    large = np.full((1000, 3000), np.frombuffer(b"\x1a\x00\x2a\x00", np.float32)[0])
    inputs = [encode("words", words), *(encode(f"x{i}", large) for i in range(3)), encode("deep", np.ones((1,) * 64))]
    request = inference.PredictRequest(model="m", inputs=inputs, outputs=[f"y{i}" for i in range(4096)])
    assert parse(inference.PredictRequest, request.SerializeToString()) == request
    streamed = inference.StreamRequest(predict=request, sequence=inference.Sequence(id="s"))
    assert parse(inference.StreamRequest, streamed.SerializeToString()) == streamed


@pytest.mark.parametrize(
    "rest",
    [b"\x7b\x7c", b"\x0a", b"\x0a\x05abc", b"\x1a\x02\x22\x05", b"\xff" * 11, b"\x0a" + b"\xff" * 11, b"\x08", b"\x3d"],
    ids=["group", "no length", "cut short", "longer than its tensor", "endless key", "endless length", "0", "fixed"],
)
def test_what_cannot_be_counted_is_no_message(rest):
    with pytest.raises(DecodeError):
        check_fields(inference.PredictRequest.DESCRIPTOR, rest)
    assert violation(inference.PredictRequest, LARGE + rest)[1].startswith("not a valid PredictRequest: ")
