"""A real network with state: silero-vad finds speech in sound, piece after piece, for many callers at a time."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxserve import Prediction
from onnxserve.tensor import decode, encode
from onnxserve.v1 import inference_service_pb2 as inference

PACKAGE = importlib.util.find_spec("silero_vad")
CALLERS = 32
CONFIG = """
batch_axis: {state: 1, stateN: 1}
shared: [sr]
batching: {max_delay_us: 3000}
"""

pytestmark = pytest.mark.skipif(
    PACKAGE is None, reason="silero-vad is not installed: pip install --no-deps silero-vad (the network is all we need)"
)


@pytest.fixture
def model():
    return Path(PACKAGE.submodule_search_locations[0], "data/silero_vad.onnx")


def sound(caller, piece):
    """A piece of noise of 64 + 512 samples for 16 kHz, and of half as many for 8 kHz; its loudness is the caller's."""
    rng = np.random.default_rng([caller, piece])
    rate = 16000 if caller % 2 else 8000
    return {
        "input": rng.standard_normal((1, 576 * rate // 16000)).astype("f4") * caller / CALLERS,
        "sr": np.array(rate),
    }


def test_many_callers_get_what_each_would_get_alone(serve, model):
    server = serve({"vad": onnx.load(model)}, {"vad": CONFIG})
    assert server.client.model("vad").batching.enabled, server.client.model("vad").batching.reason
    alone = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    states = [np.zeros((2, 1, 128), np.float32)] * CALLERS
    largest = 0
    for piece in range(4):
        sent = [{**sound(caller, piece), "state": states[caller]} for caller in range(CALLERS)]
        got = [Prediction(call.result(timeout=30)) for call in [server.send("vad", **inputs) for inputs in sent]]
        for inputs, prediction in zip(sent, got, strict=True):
            output, state = alone.run(["output", "stateN"], inputs)
            np.testing.assert_allclose(prediction["output"], output, rtol=0, atol=1e-5)
            np.testing.assert_allclose(prediction["stateN"], state, rtol=0, atol=1e-5)
        states = [prediction["stateN"] for prediction in got]
        largest = max(largest, *(prediction.receipt.batch_requests for prediction in got))
    assert 1 < largest <= CALLERS / 2  # the two rates never share a run


def spoken(caller, piece):
    """A step of a caller's sequence: 16 kHz noise whose state the server keeps."""
    rng = np.random.default_rng([7, caller, piece])
    loudness = caller / 64
    return {"input": (rng.standard_normal((1, 576)) * loudness).astype("f4"), "sr": np.array(16000)}


def test_sixty_four_sequences_on_eight_streams_equal_sixty_four_solo_runs(serve, model):
    pieces = 12
    server = serve({"vad": onnx.load(model)}, {"vad": CONFIG + "state: [{input: state, output: stateN}]"})
    alone = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def requests(stream):
        for piece in range(pieces):
            for caller in range(stream, 64, 8):
                inputs = [encode(name, array) for name, array in spoken(caller, piece).items()]
                yield inference.StreamRequest(
                    predict=inference.PredictRequest(model="vad", inputs=inputs),
                    sequence=inference.Sequence(id=str(caller)),
                )

    calls = [server.stub.Stream(requests(stream), timeout=60) for stream in range(8)]
    largest = 0
    for stream, call in enumerate(calls):
        answers = list(call)
        for i, caller in enumerate(range(stream, 64, 8)):
            state = np.zeros((2, 1, 128), np.float32)
            for piece, answer in enumerate(answers[i::8]):
                output, state = alone.run(["output", "stateN"], {**spoken(caller, piece), "state": state})
                assert [each.name for each in answer.response.outputs] == ["output"]
                np.testing.assert_allclose(decode(answer.response.outputs[0]), output, rtol=0, atol=1e-5)
        largest = max(largest, *(answer.response.receipt.batch_requests for answer in answers))
    assert largest > 1
