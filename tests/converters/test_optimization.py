"""The optimization steps, in whole conversions of ONNX files."""

import json
import math
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxserve_converters.errors import BadRequest, NotProved
from onnxserve_converters.inspection import inspect
from support import zoo
from support.converting import only_step, operators

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "models/digits/1/model.onnx"
IMAGES = EXAMPLES / "data/digits_test.npz"


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
    return convert(DIGITS, "half", progress=stages.append, optimize=True, float16=True, external_data_above=1000)


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


def test_a_step_after_which_requests_share_no_runs_does_not_pay(dynamic):
    step = only_step(dynamic)
    assert step["batchable"] == {"before": True, "after": False}
    assert not step["pays"]
    assert (
        "requests can no longer be batched: a row of its output probabilities depends on the other rows" in step["why"]
    )
    assert dynamic.report["notes"] == [f"quantize dynamic does not pay: {step['why']}"]


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
    assert any("for a GPU convert without this step" in note for note in done.report["notes"])


def test_a_statically_quantized_network_serves_batches_it_was_not_tried_with(static, folder, serving):
    archive = np.load(IMAGES)
    with serving(folder / "models" / "..", models=static.path.parents[1]) as server:
        prediction = server.client.predict("static", {"image": archive["image"][:50]})["probabilities"]
        assert server.client.model("static").outputs[0].labels[3] == "3"
    assert np.mean(prediction.argmax(1) == archive["label"][:50]) > 0.9


def test_a_model_with_a_fixed_batch_is_timed_with_that_alone(convert):
    done = convert(zoo.fixed(), "fixed", optimize=True)
    assert only_step(done)["microseconds"].keys() == {"4"}


def test_over_the_bound_nothing_is_published(convert, folder):
    with pytest.raises(NotProved) as caught:
        convert(DIGITS, "strict", quantize="dynamic", max_error=1e-6)
    assert str(caught.value).startswith("quantize dynamic: ")
    assert re.search(
        r"with batch=1: error \S+, allowed \S+, in 1 of 1 rows \(0\) \(and 3 more\); leave this step out",
        str(caught.value),
    )
    assert str(caught.value).endswith("or allow more with --max-error, now 1e-06")
    assert caught.value.report["parity"]
    assert not (folder / "models" / "strict").exists()


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"quantize": "dynamic", "float16": True}, "cannot be combined; choose one"),
        ({"quantize": "static"}, "give --calibration file.npz"),
        ({"quantize": "dynamic", "calibration": IMAGES}, "--calibration is used by --quantize static only"),
    ],
)
def test_steps_that_do_not_go_together_are_refused_before_any_work(convert, asked, complaint):
    stages = []
    with pytest.raises(BadRequest, match=complaint):
        convert(DIGITS, "refused", progress=stages.append, **asked)
    assert stages == []
