"""Quantization of graphs with properties of their own: recurrent layers, attention, biases, inner shapes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.quant_utils import QuantType

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inspection import inspect
from onnxserve_converters.quantizing import sums_saturate
from support import zoo
from support.converting import only_step, operators

DIGITS = Path(__file__).parents[2] / "examples/models/digits/1/model.onnx"


def test_shapes_of_weights_that_an_exporter_left_do_not_hinder_dynamic_quantization(convert, folder):
    made = onnx.load(DIGITS)
    for tensor in made.graph.initializer:  # as PyTorch 2.13 leaves them
        made.graph.value_info.append(zoo.tensor(tensor.name, tensor.dims, tensor.data_type))
    with pytest.raises(Exception, match="Inferred shape and existing shape differ"):
        quantize_dynamic(made, folder / "trap.onnx", op_types_to_quantize=["Gemm"], weight_type=QuantType.QInt8)
    done = convert(made, "with_shapes", quantize="dynamic")
    assert operators(done)["MatMulInteger"] == 3


def test_dynamic_quantization_takes_lstms(convert):
    done = convert(zoo.lstm(width=64), "dynamic_lstm", quantize="dynamic")
    assert operators(done)["com.microsoft.DynamicQuantizeLSTM"] == 1
    assert only_step(done)["bytes"]["after"] < only_step(done)["bytes"]["before"] / 2


def test_where_there_is_nothing_to_quantize_the_report_says_so(convert):
    done = convert(zoo.double(), "double", quantize="dynamic")
    assert not only_step(done)["pays"]
    assert done.report["notes"][0].startswith("quantize dynamic: nothing was quantized")


def test_static_quantization_takes_biases_of_one_row(convert, folder):
    rng = np.random.default_rng(3)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    weights = [zoo.constant("w", rng.standard_normal((6, 4))), zoo.constant("b", rng.standard_normal((1, 4)))]
    made = zoo.model(nodes, [zoo.tensor("x", ["batch", 6])], [zoo.tensor("y", ["batch", 4])], weights)
    np.savez(folder / "rows.npz", x=rng.standard_normal((50, 6), np.float32))
    done = convert(made, "dense", quantize="static", samples=folder / "rows.npz")
    assert inspect(done.path)["parameters"]["by_dtype"]["int32"]["count"] >= 4


def attention():
    """y = softmax(x x' + mask) x over a free axis time: float32 [batch, time, 8], -inf where mask is false."""
    nodes = [
        helper.make_node("Where", ["mask", "zero", "never"], ["added"]),
        helper.make_node("Unsqueeze", ["added", "middle"], ["added_to_all"]),
        helper.make_node("MatMul", ["x", "weight"], ["q"]),
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "turned"], ["scores"]),
        helper.make_node("Add", ["scores", "added_to_all"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["shares"]),
        helper.make_node("MatMul", ["shares", "x"], ["y"]),
    ]
    inputs = [zoo.tensor("x", ["batch", "time", 8]), zoo.tensor("mask", ["batch", "time"], TensorProto.BOOL)]
    weight = np.random.default_rng(0).standard_normal((8, 8)) / 4
    constants = [
        zoo.constant("zero", 0),
        zoo.constant("never", -np.inf),
        zoo.constant("middle", [1], np.int64),
        zoo.constant("weight", weight),
    ]
    return zoo.model(nodes, inputs, [zoo.tensor("y", ["batch", "time", 8])], constants)


def test_static_quantization_leaves_the_masks_of_attention_in_floats(convert, folder):
    rng = np.random.default_rng(2)
    mask = np.arange(12) < rng.integers(6, 13, (40, 1))
    np.savez(folder / "masked.npz", x=rng.standard_normal((40, 12, 8), np.float32), mask=mask)
    done = convert(attention(), "attention", quantize="static", calibration=folder / "masked.npz")
    assert operators(done)["QuantizeLinear"] > 2
    assert only_step(done)["error"]["relative"] < 0.05
    assert only_step(done)["accuracy"] is None


def test_static_quantization_leaves_recurrent_layers_and_says_so(convert, folder):
    x = np.random.default_rng(0).standard_normal((20, 7, 2), np.float32)
    np.savez(folder / "steps.npz", x=x)
    done = convert(zoo.lstm(), "static_lstm", quantize="static", samples=folder / "steps.npz")
    assert "quantize static: LSTM layers stay in float32" in done.report["notes"]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"picture": np.zeros(3)}, "calibration.*array 'image' is missing"),
        ({"image": np.zeros((4, 3, 32, 32))}, "sample image"),
        ({"image": np.zeros((4, 3, 32, 32), np.float32), "label": np.zeros(3, int)}, "array 'label' is int64"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(convert, tmp_path, arrays, complaint):
    np.savez(tmp_path / "calibration.npz", **arrays)
    with pytest.raises(BadRequest, match=complaint):
        convert(DIGITS, "unfit", quantize="static", calibration=tmp_path / "calibration.npz")


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [("flags\t\t: sse2 avx2", True), ("flags\t\t: avx2 avx512_vnni", False), ("Features\t: asimddp", False)],
    ids=["x86 without VNNI", "x86 with VNNI", "arm64"],
)
def test_weights_get_seven_bits_where_sums_would_saturate(tmp_path, flags, saturates):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    assert sums_saturate(tmp_path / "cpuinfo") == saturates
