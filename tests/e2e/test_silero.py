"""A real network with state: silero-vad finds speech in sound, piece after piece, for many callers at a time."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxserve import Prediction

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
