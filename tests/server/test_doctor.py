"""The doctor: what it finds installed, and which problems it reports."""

import onnx
import pytest
from onnx import TensorProto, helper

from onnxserve_server import doctor
from onnxserve_server.edge import self_test
from onnxserve_server.settings import load_settings
from support import zoo


def examine(**settings):
    return doctor.examine(load_settings(**{"providers": "cpu"} | settings), try_models="models" in settings)


def test_its_smallest_model_is_what_onnx_makes():
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    theirs = onnx.load_from_string(doctor.IDENTITY)
    onnx.checker.check_model(theirs)
    assert theirs.graph == made.graph
    assert theirs.SerializeToString() == doctor.IDENTITY


def test_a_sound_installation_has_no_problem():
    found = examine()
    assert found["problems"] == []
    assert found["server"]["edge"] == "lane"
    assert found["server"]["providers_got"] == ["CPUExecutionProvider"]
    assert {"python", "onnxserve", "onnxruntime", "grpcio", "protobuf", "numpy"} <= found["versions"].keys()
    assert found["models"] == []


def test_models_are_tried_each_for_itself(tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double(), "fixed": zoo.fixed(), "broken": zoo.double()})
    (root / "broken" / "1" / "model.onnx").write_bytes(b"nothing")
    found = examine(models=root)
    assert [(model["model"], model["verdict"].partition(":")[0]) for model in found["models"]] == [
        ("broken/1", "does not load"),
        ("double/1", "batched"),
        ("fixed/1", "one request at a time"),
    ]
    (problem,) = found["problems"]
    assert str(root / "broken" / "1" / "model.onnx") in problem


def test_models_are_tried_as_their_model_yaml_says(tmp_path):
    root = zoo.write(tmp_path / "models", {"lstm": zoo.crashing()}, {"lstm": "graph_optimization: extended"})
    assert examine(models=root)["problems"] == []


def test_a_grpcio_that_does_not_support_the_lane_is_a_problem(monkeypatch):
    def fail():
        raise self_test.LaneError("no queue")

    monkeypatch.setattr(self_test, "run", fail)
    found = examine()
    assert found["server"]["edge"] == "plain"
    assert found["problems"] == ["this grpcio does not support the lane: no queue; install one of the supported range"]


@pytest.mark.parametrize("both", [True, False])
def test_two_onnxruntimes_in_one_place_are_a_problem(monkeypatch, both):
    installed = {"onnxruntime", "onnxruntime-gpu"} if both else {"onnxruntime-gpu"}
    monkeypatch.setattr(doctor, "_version", lambda package: "1" if package in installed else None)
    assert any("overwrite each other" in problem for problem in examine()["problems"]) == both
