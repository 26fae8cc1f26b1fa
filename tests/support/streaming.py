"""Streams whose requests are put in by hand, and what their answers hold."""

import queue

import numpy as np
from google.rpc import error_details_pb2

from onnxserve.tensor import decode, encode
from onnxserve.v1 import inference_service_pb2 as inference

STREAM = "/onnxserve.v1.InferenceService/Stream"


def echo(request):
    """The answer to a request: its inputs as the outputs."""
    asked = request.predict
    response = inference.PredictResponse(model=asked.model, request_id=asked.request_id, outputs=asked.inputs)
    return inference.StreamResponse(request_id=asked.request_id, response=response, final=True)


class Stub:
    """The Stream method of a channel."""

    def __init__(self, channel):
        self.Stream = channel.stream_stream(
            STREAM,
            inference.StreamRequest.SerializeToString,
            inference.StreamResponse.FromString,
        )


class Line:
    """A stream whose requests are put in by hand."""

    def __init__(self, stub, timeout=60):
        self._requests = queue.SimpleQueue()
        self.call = stub.Stream(iter(self._requests.get, None), timeout=timeout)

    def send(self, *requests):
        for request in requests:
            self._requests.put(request)
        return self

    def __next__(self):
        return next(self.call)

    def ask(self, request):
        return next(self.send(request))

    def close(self):
        self._requests.put(None)


def step(sequence, value, *, model="recurrent", name="x", shape=(1, 2), predict=None, **fields):
    """A step of a sequence whose input is one number; `predict` are fields of its PredictRequest."""
    request = inference.PredictRequest(
        model=model, inputs=[encode(name, np.full(shape, value, np.float32))], **(predict or {})
    )
    return inference.StreamRequest(predict=request, sequence=inference.Sequence(id=sequence, **fields))


def cancel(request_id):
    return inference.StreamRequest(cancel=inference.CancelRequest(request_id=request_id))


def output(answer, name="y"):
    """An output of an answer, as an array."""
    assert answer.WhichOneof("outcome") == "response", answer
    return decode(next(each for each in answer.response.outputs if each.name == name))


def expected(values, state=0.0):
    """What zoo.recurrent() answers to these inputs."""
    answers = []
    for value in values:
        state = state / 2 + value
        answers.append(3 * state)
    return answers


def error_of(answer):
    """Code, reason and fields of an answer that is an error."""
    info, fault = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in answer.error.details:
        detail.Unpack(info)
        detail.Unpack(fault)
    return answer.error.code, info.reason, [each.field for each in fault.field_violations]
