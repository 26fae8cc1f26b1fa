"""Steps that make a proved graph smaller or faster, in whole conversions of ONNX files."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.quant_utils import QuantType

from onnxserve_converters import conversion, graph
from onnxserve_converters.errors import BadRequest, NotProved
from onnxserve_converters.inspection import inspect
from support import zoo
from support.converting import request

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "models/digits/1/model.onnx"
IMAGES = EXAMPLES / "data/digits_test.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shrinking")


@pytest.fixture(scope="module")
def convert(folder):
    """Convert a file, or a model of the zoo, to REPOSITORY/name."""

    def run(source, name, progress=lambda stage: None, **asked):
        if isinstance(source, onnx.ModelProto):
            onnx.save(source, folder / f"{name}.onnx")
            source = folder / f"{name}.onnx"
        return conversion.run(request(source, **asked), folder / "models" / name, progress=progress)

    return run


@pytest.fixture(scope="module")
def static(convert, folder):
    """The trained digits, quantized with a few images and scored on all."""
    np.savez(folder / "calibration.npz", image=np.load(IMAGES)["image"][:40])
    return convert(DIGITS, "static", quantize="static", calibration=folder / "calibration.npz", samples=IMAGES)


@pytest.fixture(scope="module")
def dynamic(convert):
    return convert(DIGITS, "dynamic", quantize="dynamic", doc="digits in eight bits")


@pytest.fixture(scope="module")
def stages():
    return []


@pytest.fixture(scope="module")
def half(convert, stages):
    """Two steps, with the weights in a file of their own."""
    return convert(DIGITS, "half", stages.append, optimize=True, float16=True, external_data_above=1000)


@pytest.fixture(scope="module")
def half_lstm(convert):
    return convert(zoo.lstm(), "half_lstm", float16=True)


def only_step(done):
    (step,) = done.report["shrinking"]
    return step


def operators(done):
    return inspect(done.path)["operators"]


def test_static_quantization_of_a_trained_network_tells_its_accuracy_before_and_after(static):
    accuracy = only_step(static)["accuracy"]
    assert accuracy["before"] > 0.95
    assert accuracy["after"] > 0.95
    assert static.report["accuracy"] == {"output": "probabilities", "rows": 450, "share": accuracy["after"]}


def test_a_step_tells_size_speed_and_error(static):
    step = only_step(static)
    assert step["step"] == "quantize static"
    assert step["bytes"]["before"] > DIGITS.stat().st_size * 0.9
    assert step["bytes"]["after"] == (static.path / "model.onnx").stat().st_size < step["bytes"]["before"] * 0.4
    assert step["microseconds"].keys() == {"1", "16"}
    assert all(time[when] > 1 for time in step["microseconds"].values() for when in ("before", "after"))
    assert 0 < step["error"]["relative"] < 0.05
    assert math.isclose(step["error"]["absolute"], max(row["error"] for row in static.report["proof"]["parity"]))


def test_static_quantization_has_all_weights_in_eight_bits_and_softmax_in_floats(static):
    weights = inspect(static.path)["parameters"]["by_dtype"]
    assert weights["int8"]["count"] > 61_000
    assert weights["float32"]["count"] < 1_000
    softmax = next(node for node in onnx.load(static.path / "model.onnx").graph.node if node.op_type == "Softmax")
    assert softmax.output[0] == "probabilities"


def test_dynamic_quantization_takes_dense_layers_and_leaves_convolutions(dynamic):
    found = operators(dynamic)
    assert found["Conv"] == 2
    assert found["MatMulInteger"] == 3
    assert "Gemm" not in found


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


def test_a_step_after_which_requests_share_no_runs_does_not_pay(dynamic):
    step = only_step(dynamic)
    assert step["batchable"] == {"before": True, "after": False}
    assert not step["pays"]
    assert "requests will share no runs: a row of its output probabilities depends on the other rows" in step["why"]
    assert dynamic.report["notes"] == [f"quantize dynamic does not pay: {step['why']}"]


def test_where_there_is_nothing_to_quantize_the_report_says_so(convert):
    done = convert(zoo.double(), "double", quantize="dynamic")
    assert not only_step(done)["pays"]
    assert done.report["notes"][0].startswith("quantize dynamic: nothing was quantized")


@pytest.mark.parametrize("name", ["static", "dynamic", "half"])
def test_what_the_file_declares_survives_the_steps(request, name):
    made = onnx.load(request.getfixturevalue(name).path / "model.onnx", load_external_data=False)
    given = onnx.load(DIGITS)
    metadata = {entry.key: json.loads(entry.value) for entry in made.metadata_props}
    assert metadata["labels"] == {"probabilities": [str(digit) for digit in range(10)]}
    assert metadata["signature"] == {
        "inputs": {"image": ["float32", ["batch", 3, 32, 32]]},
        "outputs": {"probabilities": ["batch", 10]},
    }
    assert metadata.keys() == {"labels", "signature"}
    assert made.doc_string == ("digits in eight bits" if name == "dynamic" else given.doc_string)
    assert [str(value.type) for value in (*made.graph.input, *made.graph.output)] == [
        str(value.type) for value in (*given.graph.input, *given.graph.output)
    ]
    assert (made.producer_name, made.producer_version) == (given.producer_name, given.producer_version)
    assert not made.graph.value_info


def test_the_opset_of_the_report_is_that_of_the_result(dynamic, half):
    for done in (dynamic, half):
        assert done.report["model"]["opset"] == inspect(done.path)["opset"]
    assert half.report["model"]["opset"] == {"ai.onnx": 20}


def test_steps_come_in_order_each_on_what_the_one_before_left(half, stages):
    assert stages[stages.index("prove") :] == ["prove", "optimize", "float16", "measure", "publish"]
    optimize, float16 = half.report["shrinking"]
    assert (optimize["step"], float16["step"]) == ("optimize", "float16")
    assert optimize["bytes"]["after"] == float16["bytes"]["before"]


def test_external_data_is_replaced_with_its_file(half):
    names = {path.name for path in half.path.iterdir()}
    assert names == {"model.onnx", "model.onnx.data", "report.json"}
    assert half.report["shrinking"][1]["bytes"]["after"] == inspect(half.path)["bytes"]
    assert inspect(half.path)["parameters"]["by_dtype"]["float16"]["count"] == 62006


def test_a_graph_that_is_only_optimized_has_nodes_of_onnx_runtime_itself(convert):
    done = convert(DIGITS, "optimized", optimize=True)
    assert operators(done)["com.microsoft.FusedConv"] == 2
    assert only_step(done)["error"]["relative"] < 1e-5
    assert any("for a GPU publish the model without this step" in note for note in done.report["notes"])


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


def test_a_statically_quantized_network_serves_batches_it_was_not_tried_with(static, folder, serving):
    archive = np.load(IMAGES)
    with serving(folder / "models" / "..", models=static.path.parents[1]) as server:
        prediction = server.client.predict("static", {"image": archive["image"][:50]})["probabilities"]
        assert server.client.model("static").outputs[0].labels[3] == "3"
    assert np.mean(prediction.argmax(1) == archive["label"][:50]) > 0.9


def test_optimizing_a_float16_graph_leaves_it_in_float16(convert):
    done = convert(zoo.crashing(), "half_source", optimize=True)
    assert "Cast" not in operators(done)
    assert done.report["notes"][0].startswith("optimize: done by onnxslim alone")


def test_a_float16_graph_is_not_quantized(convert):
    with pytest.raises(BadRequest, match="16-bit floats; quantize the float32 model"):
        convert(zoo.crashing(), "half_quantized", quantize="dynamic")


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


def test_a_model_with_a_fixed_batch_is_timed_with_that_alone(convert):
    done = convert(zoo.fixed(), "fixed", optimize=True)
    assert only_step(done)["microseconds"].keys() == {"4"}


def test_over_the_bound_nothing_is_published(convert, folder):
    with pytest.raises(NotProved) as caught:
        convert(DIGITS, "strict", quantize="dynamic", max_error=1e-6)
    assert str(caught.value).startswith("quantize dynamic: ")
    assert "it is off by" in str(caught.value)
    assert "is allowed" in str(caught.value)
    assert str(caught.value).endswith("or allow more with --max-error, now 1e-06")
    assert caught.value.report["parity"]
    assert not (folder / "models" / "strict").exists()


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"quantize": "dynamic", "float16": True}, "exclude each other"),
        ({"quantize": "static"}, "give --calibration file.npz"),
        ({"quantize": "dynamic", "calibration": IMAGES}, "--calibration is for --quantize static"),
    ],
)
def test_steps_that_do_not_go_together_are_refused_before_any_work(convert, asked, complaint):
    told = []
    with pytest.raises(BadRequest, match=complaint):
        convert(DIGITS, "refused", told.append, **asked)
    assert told == []


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"picture": np.zeros(3)}, "calibration.*no array 'image'"),
        ({"image": np.zeros((4, 3, 32, 32))}, "sample image"),
        ({"image": np.zeros((4, 3, 32, 32), np.float32), "label": np.zeros(3, int)}, "its array 'label'"),
    ],
)
def test_calibration_that_does_not_fit_is_refused(convert, tmp_path, arrays, complaint):
    np.savez(tmp_path / "calibration.npz", **arrays)
    with pytest.raises(BadRequest, match=complaint):
        convert(DIGITS, "unfit", quantize="static", calibration=tmp_path / "calibration.npz")


def test_a_rewritten_graph_is_put_in_order_with_what_its_inner_graphs_read():
    made = zoo.slow()
    made.graph.node.append(made.graph.node.pop(0))
    [loop] = (node for node in made.graph.node if node.op_type == "Loop")
    inner = loop.attribute[0].g.node[0]
    assert inner.op_type == "MatMul"
    inner.input[1] = "late"
    made.graph.node.append(helper.make_node("Identity", ["weight"], ["late"]))
    made.graph.initializer.append(zoo.constant("weight", np.eye(384)))
    with pytest.raises(onnx.checker.ValidationError, match="sorted"):
        onnx.checker.check_model(made)
    graph.settle(made, graph.declarations(made))
    onnx.checker.check_model(made, full_check=True)


def test_domains_that_no_node_uses_are_dropped_and_none_stands_twice():
    made = zoo.double()
    made.opset_import.extend([helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)])
    graph.settle(made, graph.declarations(made))
    assert graph.opsets(made) == {"ai.onnx": 21}
    assert len(made.opset_import) == 1
