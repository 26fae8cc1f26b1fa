"""Operators that are known to end the process, or never to return: ONNX Runtime 1.31.1 on a CPU, found by kernels.py.

A model of each, and which of the trials of kernels.py are fatal to it. All axes are free and have no name.
"""

import numpy as np
import onnx
from onnx import helper

from support.kernels import Case

MS = "com.microsoft"
_rng = np.random.default_rng(0)


def floats(*shape, dtype=np.float32):
    return _rng.standard_normal(shape).astype(dtype)


def small_bytes(*shape):
    return _rng.integers(0, 100, shape).astype(np.uint8)


def integers(*values, dtype=np.int64):
    return np.array(values, dtype)


def case(name, node, feeds, **constants):
    """Return a model of one node; `feeds` are inputs and samples of them."""
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
            for key, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=output) for output in node.output if output],
        [onnx.numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(MS, 1)]
    return Case(name, helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds)


def node(op, inputs, outputs="y", **attributes):
    return helper.make_node(op, inputs.split(" "), outputs.split(" "), **attributes)


def cases():
    """Return a model for each key of FATAL."""
    return [*_recurrent(), *_arithmetic(), *_convolutions(), *_normalizations(), *_attention(), *_others()]


def _recurrent():
    weights = {"w": floats(1, 9, 4), "r": floats(1, 9, 3)}
    yield case("gru", node("GRU", "x w r", hidden_size=3), {"x": floats(5, 2, 4)}, **weights)
    weights = {"w": floats(1, 12, 4), "r": floats(1, 12, 3)}
    yield case("lstm", node("LSTM", "x w r", hidden_size=3), {"x": floats(5, 2, 4)}, **weights)
    weights = {"w": small_bytes(1, 4, 12), "r": small_bytes(1, 3, 12), "b": floats(1, 24)}
    scales = {"s": np.array([0.1], np.float32), "z": np.zeros(1, np.uint8)}
    quantized = node("DynamicQuantizeLSTM", "x w r b     s z s z", domain=MS, hidden_size=3)
    yield case("quantized lstm", quantized, {"x": floats(5, 2, 4)}, **weights, **scales)


def _arithmetic():
    for op in ("Div", "Mod"):
        for dtype in (np.int32, np.int64):
            pair = {"x": integers(7, 8, dtype=dtype), "y": integers(2, 3, dtype=dtype)}
            yield case(f"{op} {dtype.__name__}", node(op, "x y", "z"), pair)
        by = node(op, "x y", "z")
        yield case(f"{op} by a constant", by, {"x": integers(7, 8)}, y=integers(-1))


def _convolutions():
    transposed = node("ConvTranspose", "x w")
    yield case("transposed convolution", transposed, {"x": floats(1, 2, 5, 5, 5)}, w=floats(2, 2, 3, 3, 3))
    yield case("convolution", node("Conv", "x w", strides=[2]), {"x": floats(1, 2, 5), "w": floats(2, 2, 3)})
    planes = {"x": floats(1, 2, 5, 5), "w": floats(2, 2, 3, 3)}
    yield case("planes", node("Conv", "x w", pads=[1, 1, 1, 1]), planes)


def _normalizations():
    half = {name: floats(2, dtype=np.float16) for name in "sb"}
    yield case("half norm", node("InstanceNormalization", "x s b"), {"x": floats(1, 2, 5, dtype=np.float16)}, **half)
    both = {"x": floats(2, 3, 4), "s": floats(2, 3, 4)}
    yield case("skip norm", node("SkipLayerNormalization", "x s g b", domain=MS), both, g=floats(4), b=floats(4))
    yield case("simple norm", node("SkipSimplifiedLayerNormalization", "x s g", domain=MS), both, g=floats(4))


def _attention():
    four = {name: floats(2, 3, 4, 8) for name in "qkv"}
    yield case("attention", node("Attention", "q k v"), four)
    three = {"q": floats(1, 3, 4), "k": floats(1, 5, 4), "v": floats(1, 5, 4)}
    yield case("heads", node("MultiHeadAttention", "q k v", domain=MS, num_heads=2), three)
    past = {name: floats(1, 3, 4) for name in "qkv"} | {name: floats(1, 2, 5, 2) for name in ("pk", "pv")}
    yield case("cached heads", node("MultiHeadAttention", "q k v    pk pv", domain=MS, num_heads=2), past)
    scales = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
    quantized = node("QAttention", "x w b s s  z z", domain=MS, num_heads=2)
    weights = {"w": small_bytes(4, 12), "b": floats(12)}
    yield case("quantized attention", quantized, {"x": small_bytes(1, 3, 4)}, **weights, **scales)
    places = {"x": floats(1, 2, 3, 4), "p": np.array([[0, 1, 2]])}
    rotary = node("RotaryEmbedding", "x p c s", domain=MS)
    yield case("rotary", rotary, places, c=floats(8, 2), s=floats(8, 2))


def _others():
    two = {"a": floats(1, 2, 3, 4), "b": floats(1, 2, 5, 4)}
    yield case("einsum", node("Einsum", "a b", equation="bhid,bhjd->bhij"), two)
    yield case("inverse", node("Inverse", "x", domain=MS), {"x": floats(2, 3, 3)})
    yield case("unique", node("Unique", "x", "y i v c", axis=0), {"x": floats(3, 4)})
    scales = {"x": floats(4, 8), "s": np.abs(floats(4, 2)), "z": small_bytes(4, 2)}
    yield case("blocks", node("QuantizeLinear", "x s z", block_size=4, axis=1), scales)
    step = integers(4).reshape(())
    yield case("window", node("STFT", "x t w"), {"x": floats(1, 16, 1), "w": floats(8)}, t=step)
    yield case("length", node("STFT", "x t  l"), {"x": floats(1, 16, 1), "l": integers(8).reshape(())}, t=step)


_MIN32, _MIN64 = -(2**31), -(2**63)
FATAL = {
    "gru": ["x.0 = 0", "x.1 = 0"],
    "lstm": ["x.1 = 0"],
    "quantized lstm": ["x.1 = 0"],
    "Div int32": [f"x = {_MIN32}, y = -1"],
    "Div int64": [f"x = {_MIN64}, y = -1"],
    "Div by a constant": [f"x = '{_MIN64}'"],
    "Mod int32": [f"x = {_MIN32}, y = -1"],
    "Mod int64": [f"x = {_MIN64}, y = -1"],
    "Mod by a constant": [f"x = '{_MIN64}'"],
    "transposed convolution": ["x.2 = 0", "x.3 = 0"],
    "convolution": ["w.2 = 0"],
    "planes": ["w.2 = 0", "w.3 = 0", "x.1 + w.1 = 0"],
    "half norm": ["x.2 = 0"],
    "skip norm": ["s.0 = 0"],
    "simple norm": ["s.0 = 0"],
    "attention": ["q.1 + k.1 + v.1 = 0"],
    "heads": ["v.2 = 0"],
    "cached heads": ["v.2 = 0", "k.1 + v.1 = 0"],
    "quantized attention": ["x.0 = 0"],
    "rotary": ["x.3 = 0"],
    "einsum": ["b.0 = 0"],
    "inverse": ["x.1 = 0"],
    "unique": ["x.1 = 0"],
    "blocks": ["x.0 + x.1 + s.0 + s.1 + z.0 + z.1 = 0"],
    "window": ["w.0 = 0"],
    "length": ["l = '0'"],
}
"""By the name of a case: the trials that are fatal to it."""
