import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inspection import inspect
from support import zoo

DIGITS = Path(__file__).parents[2] / "examples/models/digits"


@pytest.fixture
def look(tmp_path):
    """Inspect a model of the zoo, written to a file."""

    def run(made, **how):
        onnx.save(made, tmp_path / "some.onnx", **how)
        return inspect(tmp_path / "some.onnx")

    return run


@pytest.fixture
def repository(tmp_path):
    """Versions 9 and 10 of one model, with a model.yaml, and a report in the newest."""
    models = {"net": zoo.double()}
    zoo.write(tmp_path, models, {"net": "instances: 2\n"})
    (tmp_path / "net" / "1").rename(tmp_path / "net" / "9")
    zoo.write(tmp_path, models)
    (tmp_path / "net" / "1").rename(tmp_path / "net" / "10")
    (tmp_path / "net" / "10" / "report.json").write_text('{"seconds": 2.5}')
    return tmp_path


def test_a_trained_network_is_described():
    found = inspect(DIGITS)
    assert found["file"] == str(DIGITS / "1" / "model.onnx")
    assert found["bytes"] == (DIGITS / "1" / "model.onnx").stat().st_size
    assert found["ir_version"] == 10
    assert found["opset"] == {"ai.onnx": 20}
    assert found["producer"].startswith("pytorch 2.")
    assert found["doc"].startswith("LeNet-5 reading a handwritten digit")
    assert found["inputs"] == {"image": {"dtype": "float32", "shape": ["batch", 3, 32, 32]}}
    assert found["outputs"] == {"probabilities": {"dtype": "float32", "shape": ["batch", 10]}}
    assert found["free_axes"] == ["batch"]
    assert found["parameters"]["by_dtype"]["float32"] == {"count": 62006, "bytes": 4 * 62006}
    assert found["parameters"]["count"] == 62008
    assert list(found["operators"].items())[:3] == [("Relu", 4), ("Gemm", 3), ("Conv", 2)]
    assert found["metadata"] == {"labels": {"probabilities": [str(digit) for digit in range(10)]}}
    assert (found["config"], found["report"], found["external_data"]) == (None, None, [])


def test_the_whole_description_can_be_json(look):
    for made in (zoo.slow(), zoo.of_a_sequence(), zoo.identity(TensorProto.STRING)):
        found = look(made)
        assert json.loads(json.dumps(found)) == found


def test_text_that_is_not_utf_8_is_read_with_a_replacement(tmp_path):
    made = zoo.double()
    helper.set_model_props(made, {"some key": "value", "nested": "[" * 100_000})
    data = made.SerializeToString().replace(b"batch", b"bat\xffh").replace(b"some key", b"some\xffkey")
    (tmp_path / "some.onnx").write_bytes(data)
    found = inspect(tmp_path / "some.onnx")
    assert json.loads(json.dumps(found)) == found
    assert found["inputs"]["x"]["shape"] == ["bat\ufffdh", 3]
    assert found["metadata"] == {"some\ufffdkey": "value", "nested": "[" * 100_000}


INDEPENDENT = {"verdict": "independent", "node": "", "reason": ""}


def test_the_graph_shows_that_rows_are_independent_and_where_they_meet(look):
    assert inspect(DIGITS)["rows"] == INDEPENDENT
    met = look(zoo.mixing())["rows"]
    assert (met["verdict"], met["node"]) == ("meet", "mean")
    assert met["reason"] == "output y: ReduceMean: it mixes the elements along the axis that counts rows"


def test_inputs_with_a_default_are_listed_apart_and_taken_for_no_constants(look):
    found = look(zoo.with_default())
    assert list(found["inputs"]) == ["x"]
    assert found["optional_inputs"] == {"axes": {"dtype": "int64", "shape": [1]}}
    assert found["rows"]["verdict"] == "unknown"


def test_weights_of_old_files_are_no_inputs(look):
    found = look(zoo.with_default(ir_version=3))
    assert (list(found["inputs"]), found["optional_inputs"]) == (["x"], {})
    assert found["rows"] == INDEPENDENT


def test_rows_are_looked_for_where_model_yaml_or_the_file_says_that_they_lie(tmp_path):
    zoo.write(
        tmp_path,
        {"a": zoo.columns(8), "b": zoo.mixing(1)},
        {"a": "batch_axis: {x: 1, y: 1}", "b": "batch_axis: {x: 1, y: 1}"},
    )
    assert inspect(tmp_path / "a")["rows"] == INDEPENDENT
    assert inspect(tmp_path / "b")["rows"]["verdict"] == "meet"
    (tmp_path / "b" / "model.yaml").write_text("batch_axis: {nothing: 1}")
    assert "batch_axis.nothing" in inspect(tmp_path / "b")["rows"]["reason"]


@pytest.mark.parametrize("text", ["batch_axis: 1", "batch_axis: {x: a}", "shared: 5", "[" * 3000, "d: 2001-99-99"])
def test_a_model_yaml_that_cannot_be_used_is_the_reason_that_nothing_is_known_of_rows(tmp_path, text):
    zoo.write(tmp_path, {"a": zoo.double()}, {"a": text})
    rows = inspect(tmp_path / "a")["rows"]
    assert rows["verdict"] == "unknown"
    assert "model.yaml" in rows["reason"]


def test_a_models_folder_stands_for_its_newest_version(repository):
    found = inspect(repository / "net")
    assert found["file"] == str(repository / "net" / "10" / "model.onnx")
    assert found["config"] == "instances: 2\n"
    assert found["report"] == {"seconds": 2.5}


@pytest.mark.parametrize("path", ["net/9", "net/9/model.onnx"])
def test_a_version_is_found_by_its_folder_or_file(repository, path):
    found = inspect(repository / path)
    assert found["file"] == str(repository / "net" / "9" / "model.onnx")
    assert found["config"] == "instances: 2\n"
    assert found["report"] is None


def test_a_relative_path_finds_its_model_yaml_too(repository, monkeypatch):
    monkeypatch.chdir(repository / "net" / "9")
    assert inspect(Path("model.onnx"))["config"] == "instances: 2\n"


def test_free_axes_come_in_the_order_of_the_inputs_and_those_without_a_name_as_a_question_mark(look):
    made = zoo.sequence()
    made.graph.input[1].type.tensor_type.shape.dim[1].Clear()
    found = look(made)
    assert found["inputs"]["x"]["shape"] == ["batch", "seq"]
    assert found["inputs"]["mask"]["shape"] == ["batch", "?"]
    assert found["free_axes"] == ["batch", "seq"]


def test_what_is_no_tensor_has_a_dtype_and_no_shape(look):
    assert look(zoo.of_a_sequence())["inputs"] == {"x": {"dtype": "sequence", "shape": None}}


def test_a_scalar_has_no_axes_and_an_unknown_shape_is_none(look):
    made = zoo.scaled()
    made.graph.output[0].type.tensor_type.ClearField("shape")
    found = look(made)
    assert found["inputs"]["s"]["shape"] == []
    assert found["outputs"]["y"]["shape"] is None


def test_weights_that_old_files_list_as_inputs_are_none(look):
    made = zoo.double()
    made.graph.input.append(zoo.tensor("two", []))
    assert list(look(made)["inputs"]) == ["x"]


def test_operators_of_inner_graphs_count_and_those_of_other_domains_have_its_name(look):
    found = look(zoo.slow())
    assert found["operators"]["MatMul"] == 1
    assert found["operators"]["ReduceMax"] == 2
    made = zoo.double()
    made.graph.node[0].domain = "com.example"
    made.opset_import.append(helper.make_opsetid("com.example", 3))
    found = look(made)
    assert found["operators"] == {"com.example.Mul": 1}
    assert found["opset"] == {"ai.onnx": 21, "com.example": 3}


def test_parameters_are_counted_by_dtype_the_commonest_first(look):
    made = zoo.double()
    made.graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros((3, 5), np.float16), "half"),
            helper.make_tensor("packed", TensorProto.INT4, [7], [1] * 7),
            helper.make_tensor("words", TensorProto.STRING, [2], [b"one", b"three"]),
        ]
    )
    parameters = look(made)["parameters"]
    assert parameters == {
        "count": 25,
        "bytes": 30 + 4 + 8 + 4,
        "by_dtype": {
            "float16": {"count": 15, "bytes": 30},
            "int4": {"count": 7, "bytes": 4},
            "string": {"count": 2, "bytes": 8},
            "float32": {"count": 1, "bytes": 4},
        },
    }
    assert list(parameters["by_dtype"]) == ["float16", "int4", "string", "float32"]


def test_metadata_that_is_json_is_parsed_and_other_text_stays(look):
    made = zoo.model([helper.make_node("Identity", ["x"], ["y"])], [zoo.tensor("x", [2])], [zoo.tensor("y", [2])])
    helper.set_model_props(made, {"labels": '{"y": ["a", "b"]}', "author": "somebody {"})
    assert look(made)["metadata"] == {"labels": {"y": ["a", "b"]}, "author": "somebody {"}


def test_weights_in_another_file_count_and_need_not_be_there(look, tmp_path):
    apart = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    found = look(zoo.mlp(), **apart)
    size = (tmp_path / "weights.bin").stat().st_size
    assert found["external_data"] == [{"file": "weights.bin", "bytes": size}]
    assert found["bytes"] == size + (tmp_path / "some.onnx").stat().st_size
    assert found["parameters"]["count"] == 64 * 64 + 64 * 10
    assert found["parameters"]["bytes"] == 4 * (64 * 64 + 64 * 10)
    (tmp_path / "weights.bin").unlink()
    found = inspect(tmp_path / "some.onnx")
    assert found["external_data"] == [{"file": "weights.bin", "bytes": None}]
    assert found["bytes"] == (tmp_path / "some.onnx").stat().st_size


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a valid ONNX file: it has no graph"),
        (b"weights, so to speak", "not a valid ONNX file: "),
        ((DIGITS / "1" / "model.onnx").read_bytes()[:5000], "not a valid ONNX file: "),
    ],
    ids=["empty", "garbage", "torn"],
)
def test_a_file_that_is_not_valid_onnx_is_refused(tmp_path, content, complaint):
    (tmp_path / "some.onnx").write_bytes(content)
    with pytest.raises(BadRequest, match=complaint):
        inspect(tmp_path / "some.onnx")


def test_a_place_without_a_model_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="no such file or directory"):
        inspect(tmp_path / "nothing")
    with pytest.raises(BadRequest, match=r"contains neither model\.onnx nor a version; expected an \.onnx file, "):
        inspect(tmp_path)


def test_a_report_that_is_not_valid_json_is_refused(repository):
    (repository / "net" / "10" / "report.json").write_text("{")
    with pytest.raises(BadRequest, match=r"report\.json: cannot be read as JSON"):
        inspect(repository / "net")
