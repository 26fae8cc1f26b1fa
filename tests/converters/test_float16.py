"""Graphs of 16-bit floats: converted to, optimized, served."""

import numpy as np
import pytest

from onnxserve_converters.errors import BadRequest
from support import zoo
from support.converting import operators


@pytest.fixture(scope="module")
def half_lstm(convert):
    return convert(zoo.lstm(), "half_lstm", float16=True)


def test_a_float16_lstm_is_published_so_that_the_server_can_load_it(half_lstm, folder, serving):
    assert (half_lstm.path.parent / "model.yaml").read_text() == "graph_optimization: layout\n"
    assert any("model.yaml" in note for note in half_lstm.report["notes"])
    x = np.random.default_rng(1).standard_normal((11, 23, 2)).astype(np.float32)
    root = folder / "lstms"
    zoo.write(root, {"lstm": zoo.lstm()})
    (root / "half").symlink_to(half_lstm.path.parent)
    with serving(root) as server:
        wanted = server.client.predict("lstm", {"x": x})["y"]
        got = server.client.predict("half", {"x": x})["y"]
        assert server.client.model("half").batching.enabled
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=0.01)


def test_optimizing_a_float16_graph_leaves_it_in_float16(convert):
    done = convert(zoo.crashing(), "half_source", optimize=True)
    assert "Cast" not in operators(done)
    assert done.report["notes"][0].startswith("optimize: done by onnxslim alone")


def test_a_float16_graph_is_not_quantized(convert):
    with pytest.raises(BadRequest, match="16-bit floats; quantize the float32 model"):
        convert(zoo.crashing(), "half_quantized", quantize="dynamic")
