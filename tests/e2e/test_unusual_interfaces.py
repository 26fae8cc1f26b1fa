"""Models whose inputs and outputs are unusual: served as far as they can be, and refused with the cure where not."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from onnxserve import InvalidArgument
from onnxserve._cli.app import app
from support import zoo
from support.zoo import FLOAT, constant, tensor

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def relu():
    """y = max(x, 0), of any shape: the graph declares none."""
    return unchecked([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", None)], [tensor("y", None)])


def branching():
    """y = x, float32 [batch, 4], or x[None] where the largest is 0: of which rank y is depends on the values."""
    branches = {
        "then_branch": helper.make_graph([helper.make_node("Identity", ["x"], ["a"])], "t", [], [tensor("a", None)]),
        "else_branch": helper.make_graph(
            [helper.make_node("Unsqueeze", ["x", "at"], ["b"])], "e", [], [tensor("b", None)]
        ),
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["any"], to=TensorProto.BOOL),
        helper.make_node("If", ["any"], ["y"], **branches),
    ]
    return unchecked(nodes, [tensor("x", ["batch", 4])], [tensor("y", None)], [constant("at", [0], np.int64)])


def joined():
    """y = x beside x, of undeclared rank: the rows of float32 [batch, 4] become [batch, 8]."""
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["both"]),
        helper.make_node("ConcatFromSequence", ["both"], ["y"], axis=1),
    ]
    return unchecked(nodes, [tensor("x", ["batch", 4])], [tensor("y", None)])


def unchecked(nodes, inputs, outputs, initializers=()):
    """A model that onnx.checker would refuse, or not see through."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def spoilt(old, new):
    """zoo.double() with bytes that are not UTF-8 in the place of a text; they must be as many."""
    made = zoo.model(
        [helper.make_node("Mul", ["x_name", "two"], ["y_name"])],
        [tensor("x_name", ["axis_name", 4])],
        [tensor("y_name", ["axis_name", 4])],
        [constant("two", 2)],
        {"key": "value"},
    )
    made.doc_string = "description"
    data = made.SerializeToString()
    assert len(old) == len(new)
    return data.replace(old, new)


def with_extra(value_info, node):
    """y = max(x, 0), and an output z beside it that is not a tensor."""
    nodes = [helper.make_node("Relu", ["x"], ["y"]), node]
    return unchecked(nodes, [tensor("x", ["batch", 4])], [tensor("y", ["batch", 4]), value_info])


def classifier(*, zipmap_alone=False):
    """What skl2onnx makes of a classifier: its labels, and its probabilities as a list of dictionaries."""
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, None))
    nodes = [
        helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3]),
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [helper.make_value_info("z", helper.make_sequence_type_proto(maps))]
    if not zipmap_alone:
        outputs.append(tensor("label", ["batch"], TensorProto.INT64))
    graph = helper.make_graph(nodes, "g", [tensor("x", ["batch", 4])], outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def scaled(default):
    """y = x scale, [batch, 4]; scale is [1], and has a default."""
    kind, nodes = default.data_type, [helper.make_node("Mul", ["x", "scale"], ["y"])]
    inputs = [tensor("x", ["batch", 4], kind), tensor("scale", [1], kind)]
    return unchecked(nodes, inputs, [tensor("y", ["batch", 4], kind)], [default])


def made_up_names():
    """y = a + b, float32 [?, 4] each, with the names that tf2onnx gives axes it knows nothing of."""
    inputs = [tensor("a", ["unk__1", 4]), tensor("b", ["unk__2", 4])]
    return unchecked([helper.make_node("Add", ["a", "b"], ["y"])], inputs, [tensor("y", ["unk__3", 4])])


def optional_type():
    return helper.make_value_info("z", helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, None)))


MODELS = {
    "relu": relu(),
    "branching": branching(),
    "joined": joined(),
    "joined_in_batches": joined(),
    "sequence_beside": with_extra(
        helper.make_tensor_sequence_value_info("z", FLOAT, None), helper.make_node("SequenceConstruct", ["x"], ["z"])
    ),
    "optional_beside": with_extra(optional_type(), helper.make_node("Optional", ["x"], ["z"])),
    "int4_beside": with_extra(
        tensor("z", ["batch", 4], TensorProto.INT4), helper.make_node("Cast", ["x"], ["z"], to=TensorProto.INT4)
    ),
    "zipmap_beside": classifier(),
    "with_default": zoo.with_default(),
    "made_up_names": made_up_names(),
    "scaled": scaled(constant("scale", [2])),
    "scaled_by_floats": scaled(helper.make_tensor("scale", FLOAT, [1], [2.0])),
    "scaled_by_int64": scaled(helper.make_tensor("scale", TensorProto.INT64, [1], [-3])),
    "scaled_by_float16": scaled(helper.make_tensor("scale", TensorProto.FLOAT16, [1], [0.5])),
    "scaled_by_double": scaled(helper.make_tensor("scale", TensorProto.DOUBLE, [1], [2.0])),
    "scaled_by_int32": scaled(helper.make_tensor("scale", TensorProto.INT32, [1], [-3])),
}
CONFIGS = {"joined_in_batches": "batch_axis: {y: 0}"}
SETTINGS = {"inline_us": 3000}

TEXTS = {
    "description": (b"description", b"descr\xff\xfetion"),
    "key": (b"\n\x03key", b"\n\x03k\xffy"),
    "value": (b"value", b"va\xffue"),
    "input": (b"x_name", b"x\xffname"),
    "output": (b"y_name", b"y\xffname"),
    "axis": (b"axis_name", b"axis\xffname"),
}


@pytest.fixture(scope="module")
def served(serving, tmp_path_factory):
    root = zoo.write(tmp_path_factory.mktemp("models"), MODELS, CONFIGS)
    for name, (old, new) in TEXTS.items():
        (root / f"text_{name}" / "1").mkdir(parents=True)
        (root / f"text_{name}" / "1" / "model.onnx").write_bytes(spoilt(old, new))
    for name, metadata in {"nested": "[" * 100_000, "production": "production", "weights": '["weights"]'}.items():
        made = zoo.double()
        helper.set_model_props(made, dict.fromkeys(("state", "shared", "batch_axis", "feedback", "labels"), metadata))
        (root / f"of_others_{name}" / "1").mkdir(parents=True)
        onnx.save(made, root / f"of_others_{name}" / "1" / "model.onnx")
    with serving(root, **SETTINGS) as server:
        yield server.client


@pytest.mark.parametrize("x", [X, X[0], X.reshape(2, 2, 2), X[0, 0], X[:0]], ids=lambda x: str(x.shape))
def test_an_input_of_undeclared_rank_is_taken_in_any_shape(served, x):
    answer = served.predict("relu", {"x": x})["y"]
    np.testing.assert_array_equal(answer, np.maximum(x, 0))
    assert answer.shape == x.shape


def test_a_model_of_undeclared_rank_says_so_and_is_not_batched(served):
    info = served.model("relu")
    assert (info.inputs[0].any_shape, info.inputs[0].shape) == (True, ())
    assert info.batching.reason == "the model declares no shape for input x; export it with one"


def test_outputs_of_undeclared_rank_are_served_in_the_rank_that_the_run_gives(served):
    assert served.predict("branching", {"x": X})["y"].shape == (2, 4)
    assert served.predict("branching", {"x": 0 * X})["y"].shape == (1, 2, 4)
    np.testing.assert_array_equal(served.predict("joined", {"x": X})["y"], np.concatenate([X, X], 1))
    info = served.model("joined")
    assert info.outputs[0].any_shape
    assert "set `batch_axis: {y: 0}`" in info.batching.reason


def test_model_yaml_may_say_where_the_rows_of_an_undeclared_output_lie(served):
    assert served.model("joined_in_batches").batching.enabled
    answers = served.predict("joined_in_batches", {"x": np.arange(400, dtype=np.float32).reshape(100, 4)})["y"]
    assert answers.shape == (100, 8)


@pytest.mark.parametrize(
    ("model", "output", "left_out"),
    [
        ("sequence_beside", "y", "z: seq(tensor(float))"),
        ("optional_beside", "y", "z: optional(tensor(float))"),
        ("int4_beside", "y", "z: tensor(int4)"),
        ("zipmap_beside", "label", "z: seq(map(int64,tensor(float)))"),
    ],
)
def test_outputs_that_cannot_be_sent_are_left_out_and_named(served, model, output, left_out):
    info = served.model(model)
    assert info.left_out == (left_out,)
    assert [spec.name for spec in info.outputs] == [output]
    assert [*served.predict(model, {"x": X})] == [output]
    with pytest.raises(InvalidArgument, match="unknown output 'z'"):
        served.predict(model, {"x": X}, outputs=["z"])


@pytest.mark.parametrize("model", ["scaled", "scaled_by_floats"])
def test_an_input_with_a_default_may_be_given_and_left_out(served, model):
    info = served.model(model)
    assert [(spec.name, spec.optional) for spec in info.inputs] == [("x", False), ("scale", True)]
    assert info.batching.enabled
    np.testing.assert_array_equal(served.predict(model, {"x": X})["y"], 2 * X)
    np.testing.assert_array_equal(served.predict(model, {"x": X, "scale": np.float32([5])})["y"], 5 * X)
    with pytest.raises(InvalidArgument, match=r"'x' missing; the model needs 'x'$"):
        served.predict(model, {"scale": np.float32([5])})


def test_a_default_by_which_rows_do_not_meet_proves_nothing_for_other_values(served):
    batching = served.model("with_default").batching
    assert (batching.enabled, batching.rows.rows) == (False, "UNKNOWN")
    assert "default of input axes" in batching.reason


def test_names_that_a_converter_made_up_do_not_keep_rows_apart(served):
    assert served.model("made_up_names").batching.enabled
    np.testing.assert_array_equal(served.predict("made_up_names", {"a": X, "b": X})["y"], 2 * X)


@pytest.mark.parametrize(
    ("dtype", "default"),
    [("int64", -3), ("float16", 0.5), ("double", 2.0), ("int32", -3)],
    ids=str,
)
def test_a_default_is_read_in_whatever_way_the_file_has_it(served, dtype, default):
    x = X.astype(dtype)
    np.testing.assert_array_equal(served.predict(f"scaled_by_{dtype}", {"x": x})["y"], x * x.dtype.type(default))


def test_text_that_is_not_utf_8_is_read_with_a_replacement(served):
    for name in TEXTS:
        info = served.model(f"text_{name}")
        (x,), (y,) = info.inputs, info.outputs
        np.testing.assert_array_equal(served.predict(f"text_{name}", {x.name: X})[y.name], 2 * X)
    assert served.model("text_description").description == "descr\ufffd\ufffdtion"
    assert served.model("text_key").metadata == {"k\ufffdy": "value"}
    assert served.model("text_value").metadata == {"key": "va\ufffdue"}
    assert served.model("text_input").inputs[0].name == "x\ufffdname"
    assert served.model("text_output").outputs[0].name == "y\ufffdname"
    assert served.model("text_axis").inputs[0].shape == ("axis\ufffdname", 4)


@pytest.mark.parametrize("name", ["nested", "production", "weights"])
def test_metadata_of_other_tools_is_left_alone(served, name):
    info = served.model(f"of_others_{name}")
    assert len(info.metadata) == 5
    assert info.batching.enabled


def ir_version(version):
    made = zoo.double()
    made.ir_version = version
    return made


def opset(version):
    made = zoo.double()
    made.opset_import[0].version = version
    return made


def custom(domain):
    made = zoo.double()
    made.graph.node[0].op_type, made.graph.node[0].domain = "Special", domain
    if domain:
        made.opset_import.append(helper.make_opsetid(domain, 1))
    return made


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("made", "cure"),
    [
        (ir_version(99), "Unsupported model IR version: 99.*; install a newer onnxruntime, or convert"),
        (opset(99), "; install a newer onnxruntime, or export the model again with an older opset"),
        (
            custom("acme"),
            "acme:Special.*; it uses custom operators: list the library that has them under custom_operators",
        ),
        (
            custom(""),
            "No Op registered for Special.*; this onnxruntime does not have that operator: install a newer one",
        ),
        (LFS, "; it is a Git LFS pointer and not the model: run `git lfs pull`"),
        (zoo.of_a_sequence(), r"x is a seq\(tensor\(float\)\), not a tensor; export the model such that it takes"),
        (classifier(zipmap_alone=True), r"z is a seq\(map.*; skl2onnx adds the ZipMap .*options=\{'zipmap': False\}"),
        (
            unchecked(
                [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)],
                [tensor("x", ["batch", 4], TensorProto.INT4)],
                [tensor("y", ["batch", 4])],
            ),
            r"x is a tensor\(int4\), which ONNX Runtime cannot pass through Python; add a Cast",
        ),
    ],
    ids=["IR version", "opset", "custom operator", "unknown operator", "Git LFS", "sequence", "ZipMap", "int4"],
)
def test_a_model_that_cannot_be_loaded_is_refused_with_the_cure(tmp_path, made, cure):
    root = zoo.write(tmp_path / "models", {"m": zoo.double()})
    (root / "m" / "1" / "model.onnx").write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    done = CliRunner().invoke(app, ["serve", "--models", str(root), "--port=0", "--http-port=-1"])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"onnxserve: {root}/m/1/model.onnx: ")

    assert re.search(cure, line)
