"""ONNX files that are adopted: what stays, what is set right, what is refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxserve_converters.errors import BadRequest, NotProved
from onnxserve_converters.sources.dynamic_axes import free_batch_axis
from onnxserve_converters.sources.onnx import load
from support import zoo
from support.converting import convert, request, same

X = np.arange(30, dtype=np.float32).reshape(5, 2, 3) - 9


def unchecked(nodes, inputs, outputs, initializers=(), ir_version=10):
    """A model as zoo.model() makes it, but one that breaks rules as well."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=ir_version)


def outspoken():
    """y = 2 x with a free axis that has no name, a description, labels, and notes of its author and of an exporter."""
    model = zoo.double()
    model.doc_string = "doubles"
    helper.set_model_props(model, {"author": "somebody", "labels": json.dumps({"y": ["a", "b", "c"], "z": []})})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "?"
    model.graph.node[0].doc_string = "/srv/somebody/model.py, line 7"
    return model


def old():
    """y = 2 x in IR version 3, which lists weights as inputs too, by an input without names for its axes."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    inputs = [zoo.tensor("x", [None, None, 3]), zoo.tensor("two", [])]
    return unchecked(nodes, inputs, [zoo.tensor("y", [None, None, 3])], [zoo.constant("two", 2)], ir_version=3)


def for_one_row(*nodes, row=(2, 3), initializers=()):
    """A graph from x, float32 [1, 2, 3], to y, float32 [1, *row]."""
    return zoo.model(list(nodes), [zoo.tensor("x", [1, 2, 3])], [zoo.tensor("y", [1, *row])], initializers)


def flattening(shape, **attributes):
    """y = x [1, 2, 3], positive, in a constant shape: the flatten of many exporters."""
    positive = helper.make_node("Relu", ["x"], ["positive"])
    reshape = helper.make_node("Reshape", ["positive", "shape"], ["y"], **attributes)
    return for_one_row(positive, reshape, row=(6,), initializers=[zoo.constant("shape", shape, np.int64)])


def stateful():
    """y = an LSTM of x [1, 2, 3] whose first state is a constant for one row."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["by_step"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["by_step", "w", "r", "", "", "h"], ["", "state"], hidden_size=4),
        helper.make_node("Transpose", ["state"], ["y"], perm=[1, 0, 2]),
    ]
    weights = {"w": (1, 16, 3), "r": (1, 16, 4), "h": (1, 1, 4)}
    constants = [zoo.constant(name, np.ones(shape)) for name, shape in weights.items()]
    return for_one_row(*nodes, row=(1, 4), initializers=constants)


SOURCES = {
    "outspoken": (outspoken(), ()),
    "old": (old(), ()),
    "fixed": (zoo.fixed(), ()),
    "crashing": (zoo.crashing(), ()),
    "one": (for_one_row(helper.make_node("Relu", ["x"], ["y"])), ("x=float32[rows,2,3]",)),
    "flat": (flattening([1, 6]), ("x=float32[rows,2,3]",)),
    "rest": (flattening([1, -1]), ("x=float32[rows,2,3]",)),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository of all SOURCES, and their reports by name."""
    folder = tmp_path_factory.mktemp("adopted")
    reports = {}
    for name, (model, inputs) in SOURCES.items():
        onnx.save(model, folder / f"{name}.onnx")
        reports[name] = convert(folder / f"{name}.onnx", folder / "models" / name, *inputs).report
    return folder / "models", reports


@pytest.fixture(scope="module")
def server(repository, serving):
    """A server of the repository."""
    with serving(repository[0]) as running:
        yield running


def file_of(repository, name):
    return onnx.load(repository[0] / name / "1" / "model.onnx")


def axes(value):
    return [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim]


def test_a_file_keeps_what_it_says_of_itself(repository):
    model = file_of(repository, "outspoken")
    assert model.doc_string == "doubles"
    assert {entry.key: entry.value for entry in model.metadata_props}["author"] == "somebody"


def test_what_exporters_note_inside_is_removed(repository):
    assert b"somebody/model.py" not in (repository[0] / "outspoken" / "1" / "model.onnx").read_bytes()


def test_labels_of_a_file_reach_the_callers_of_the_server(server):
    (output,) = server.client.model("outspoken").outputs
    assert list(output.labels) == ["a", "b", "c"]


def test_free_axes_without_a_name_get_one(repository):
    assert axes(file_of(repository, "outspoken").graph.input[0]) == ["batch", 3]
    assert axes(file_of(repository, "old").graph.input[0]) == ["batch", "x_1", 3]
    assert axes(file_of(repository, "old").graph.output[0]) == ["batch", "x_1", 3]


def test_weights_that_are_listed_as_inputs_are_none(repository):
    assert list(repository[1]["old"]["model"]["inputs"]) == ["x"]
    assert [value.name for value in file_of(repository, "old").graph.input] == ["x"]


def test_a_fixed_batch_stays_where_nothing_else_is_asked(repository):
    assert repository[1]["fixed"]["model"]["inputs"]["x"]["shape"] == [4, 3]
    assert not repository[1]["fixed"]["proof"]["batchable"]


def test_a_file_that_kills_the_runtime_is_served_at_a_lower_level_of_optimization(repository, server):
    assert (repository[0] / "crashing" / "model.yaml").read_text() == "graph_optimization: layout\n"
    prediction = server.client.predict("crashing", {"x": np.ones((2, 3, 2), np.float16)})
    assert np.asarray(prediction["y"]).shape == (2, 3, 5)


@pytest.mark.parametrize(
    ("name", "wanted"), [("one", X.clip(0)), ("flat", X.clip(0).reshape(5, 6)), ("rest", X.clip(0).reshape(5, 6))]
)
def test_a_file_for_one_row_serves_many_once_its_rows_are_freed(repository, server, name, wanted):
    assert same(np.asarray(server.client.predict(name, {"x": X})["y"]), wanted)
    report = repository[1][name]
    assert report["proof"]["batchable"]
    assert report["model"]["outputs"]["y"]["shape"][0] == "rows"
    assert report["notes"] == ["the file fixes the batch of x to 1; the conversion freed it"]


def test_rows_that_cannot_be_freed_are_not_published(tmp_path):
    onnx.save(stateful(), tmp_path / "model.onnx")
    with pytest.raises(NotProved, match=r"ONNX Runtime fails with rows=2 .*rows should be free"):
        convert(tmp_path / "model.onnx", tmp_path / "models" / "m", "x=float32[rows,2,3]")
    assert not (tmp_path / "models").exists()


def test_a_network_with_the_topology_of_a_real_one_is_freed(tmp_path):
    light = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"
    inputs, sizes = "data_0=float32[batch,3,224,224]", {"batch": (1, 3)}
    report = convert(light, tmp_path / "squeezenet", inputs, sizes=sizes).report
    assert report["proof"]["batchable"]
    assert report["model"]["outputs"] == {"softmaxout_1": {"shape": ["batch", 1000, 1, 1]}}


def test_weights_beside_the_file_come_along(tmp_path):
    onnx.save(zoo.mlp(), tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    version = convert(tmp_path / "model.onnx", tmp_path / "models" / "m").path
    (tmp_path / "weights").unlink()
    weights = {tensor.name: tensor.raw_data for tensor in onnx.load(version / "model.onnx").graph.initializer}
    assert weights == {tensor.name: tensor.raw_data for tensor in zoo.mlp().graph.initializer}


def test_a_frozen_file_is_refused_unless_its_frozen_size_is_described(tmp_path):
    onnx.save(zoo.frozen(), tmp_path / "model.onnx")
    with pytest.raises(BadRequest, match=r"the model fails in its own framework with batch=2: .* --input"):
        convert(tmp_path / "model.onnx", tmp_path / "models" / "m")
    report = convert(tmp_path / "model.onnx", tmp_path / "models" / "m", "x=float32[1,2]").report
    assert report["model"]["outputs"] == {"y": {"shape": [1, 2]}}


def test_rows_whose_answers_cannot_be_put_together_are_not_freed(tmp_path):
    largest = helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)
    model = zoo.model([largest], [zoo.tensor("x", [1, 2])], [zoo.tensor("y", [])])
    onnx.save(model, tmp_path / "model.onnx")
    loaded = load(request(tmp_path / "model.onnx", "x=float32[rows,2]"), "onnx")
    with pytest.raises(BadRequest, match=r"output y: its shape for one row, \[\], has no batch axis"):
        loaded.run({"x": np.ones((2, 2), np.float32)})


def test_an_inference_of_one_row_is_not_asked_of_a_shape_that_has_one_already():
    model = flattening([1, -1])
    free_batch_axis(model.graph, ["x"])
    assert shapes(model) == [[0, -1]]


def test_reshapes_that_no_row_reaches_stay_as_they_are():
    nodes = [
        helper.make_node("Reshape", ["w", "shape"], ["weight"]),
        helper.make_node("Mul", ["x", "weight"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["y"]),
    ]
    constants = [zoo.constant("shape", [1, 2, 3], np.int64), zoo.constant("w", np.ones(6))]
    model = for_one_row(*nodes, initializers=constants)
    free_batch_axis(model.graph, ["x"])
    assert shapes(model) == [[1, 2, 3], [-1, 2, 3]]


def shapes(model):
    """The constant shapes of a graph's Reshapes."""
    values = {tensor.name: onnx.numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    return [values[node.input[1]] for node in model.graph.node if node.op_type == "Reshape"]


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (("z=float32[batch,3]",), r"--input z: unknown input; \S+ has x"),
        (("x=float64[batch,3]",), r"declares x=float32\[batch,3\]"),
        (("x=float32[batch]",), "declares x="),
        (("x=float32[batch,4]",), "declares x="),
        (("x=float32[batch,width]",), "only its free axes can be named or fixed"),
    ],
)
def test_inputs_can_be_completed_but_not_contradicted(tmp_path, inputs, why):
    onnx.save(zoo.double(), tmp_path / "model.onnx")
    with pytest.raises(BadRequest, match=why):
        load(request(tmp_path / "model.onnx", *inputs), "onnx")


def test_a_batch_of_several_rows_is_not_freed(tmp_path):
    onnx.save(zoo.fixed(), tmp_path / "model.onnx")
    with pytest.raises(BadRequest, match=r"declares x=float32\[4,3\]"):
        load(request(tmp_path / "model.onnx", "x=float32[batch,3]"), "onnx")


def test_rows_are_freed_by_one_name(tmp_path):
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    model = zoo.model(nodes, [zoo.tensor("a", [1, 2]), zoo.tensor("b", [1, 2])], [zoo.tensor("y", [1, 2])])
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BadRequest, match="give the first axes of a, b one name"):
        load(request(tmp_path / "model.onnx", "a=float32[rows,2]", "b=float32[others,2]"), "onnx")


def test_labels_that_other_tools_mean_otherwise_are_left_alone(tmp_path):
    model = zoo.double()
    helper.set_model_props(model, {"labels": "cat,dog,bird"})
    onnx.save(model, tmp_path / "model.onnx")
    assert load(request(tmp_path / "model.onnx"), "onnx").labels == {}


@pytest.mark.parametrize("content", [b"hello, I am no model", b"\x08\x0a\x3a\xff", b"\x08\x0a"])
def test_a_file_that_is_no_onnx_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BadRequest, match=r"model.onnx: not a valid ONNX file"):
        load(request(tmp_path / "model.onnx"), "onnx")


def test_a_file_without_its_weights_is_refused(tmp_path):
    onnx.save(zoo.mlp(), tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    with pytest.raises(BadRequest, match="weights"):
        load(request(tmp_path / "model.onnx"), "onnx")


def test_a_file_that_gives_no_tensor_is_refused_with_the_output_named(tmp_path):
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["y"])]
    outputs = [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n"])]
    onnx.save(unchecked(nodes, [zoo.tensor("x", ["n"])], outputs), tmp_path / "model.onnx")
    with pytest.raises(BadRequest, match=r"y is a seq\(tensor\(float\)\)"):
        load(request(tmp_path / "model.onnx"), "onnx")


def test_another_opset_is_refused(tmp_path):
    onnx.save(zoo.double(), tmp_path / "model.onnx")
    with pytest.raises(BadRequest, match=r"--opset 17: \S+ has opset 21"):
        load(request(tmp_path / "model.onnx", opset=17), "onnx")
    assert load(request(tmp_path / "model.onnx", opset=21), "onnx")


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Erfc", ["x"], ["y"])],
        [helper.make_node("Relu", ["h"], ["y"]), helper.make_node("Relu", ["x"], ["h"])],
    ],
    ids=["an unknown operator", "unsorted nodes"],
)
def test_a_file_that_breaks_the_standard_is_not_proved(tmp_path, nodes):
    onnx.save(unchecked(nodes, [zoo.tensor("x", ["n"])], [zoo.tensor("y", ["n"])]), tmp_path / "model.onnx")
    with pytest.raises(NotProved, match=r"model.onnx: the file violates the ONNX standard"):
        load(request(tmp_path / "model.onnx"), "onnx")
