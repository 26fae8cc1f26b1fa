import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from onnxserve_converters import graph
from onnxserve_converters.errors import ExportFailed, NotProved
from onnxserve_converters.inputs import InputSpec
from support import zoo

X = InputSpec("x", "float32", ("batch", 2))
AXES = {"x": ("batch", 2)}


def model(nodes, outputs, initializers=(), inputs=("x",)):
    """A model of float32 [any, any] tensors, as an exporter leaves it: with inner shapes and sizes of its own."""
    tensors = [[zoo.tensor(name, ["s77", "s12"]) for name in names] for names in (inputs, outputs)]
    return zoo.model(nodes, *tensors, initializers)


def run(made, **feeds):
    graph_outputs = [value.name for value in made.graph.output]
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return dict(zip(graph_outputs, session.run(graph_outputs, feeds), strict=True))


def tidied(made, outputs, inputs=(X,)):
    axes = {**{spec.name: spec.shape for spec in inputs}, **dict.fromkeys(outputs, ("batch", 2))}
    graph.tidy(made, inputs, outputs, axes)
    return made


def axes_of(value):
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


ROWS = np.float32([[1, 2], [3, 4], [5, 6]])


def plus(source, number, result):
    return helper.make_node("Add", [source, f"c{number}"], [result])


ONE, TWO, TEN = (zoo.constant(f"c{number}", [[number]]) for number in (1, 2, 10))


def test_axes_are_declared_as_they_were_observed():
    made = tidied(model([plus("x", 1, "y")], ["y"], [ONE]), ["y"])
    assert axes_of(made.graph.input[0]) == axes_of(made.graph.output[0]) == ["batch", 2]


def test_two_outputs_swap_their_names():
    made = tidied(model([plus("x", 1, "a"), plus("x", 2, "b")], ["a", "b"], [ONE, TWO]), ["b", "a"])
    answer = run(made, x=ROWS)
    assert list(answer) == ["b", "a"]
    np.testing.assert_array_equal(answer["b"], ROWS + 1)
    np.testing.assert_array_equal(answer["a"], ROWS + 2)


def test_an_inner_value_makes_way_for_an_output_of_its_name():
    made = model([plus("x", 1, "embedding"), plus("embedding", 2, "y")], ["y"], [ONE, TWO])
    np.testing.assert_array_equal(run(tidied(made, ["embedding"]), x=ROWS)["embedding"], ROWS + 3)


def test_a_weight_makes_way_for_an_output_of_its_name():
    made = tidied(model([plus("x", 1, "y")], ["y"], [ONE]), ["c1"])
    np.testing.assert_array_equal(run(made, x=ROWS)["c1"], ROWS + 1)


def branches(then, otherwise):
    """y = what one of two inner graphs gives, by the sign of the sum of x."""
    return [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["zero", "sum"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=otherwise),
    ]


def inner(name, nodes, output, initializers=()):
    return helper.make_graph(nodes, name, [], [zoo.tensor(output, [None, None])], list(initializers))


def test_names_are_changed_inside_of_branches_too():
    then = inner("then", [plus("base", 2, "logits")], "logits")  # takes an outer value, and has the wanted name inside
    otherwise = inner("else", [plus("base", 1, "less")], "less")
    nodes = [plus("x", 10, "base"), *branches(then, otherwise)]
    made = tidied(model(nodes, ["y", "base"], [ONE, TWO, TEN, zoo.constant("zero", 0)]), ["logits", "y"])
    for rows, more in ((ROWS, 12), (-ROWS, 11)):
        answer = run(made, x=rows)
        np.testing.assert_array_equal(answer["logits"], rows + more)
        np.testing.assert_array_equal(answer["y"], rows + 10)


def test_a_branch_without_nodes_is_not_overlooked():
    constant = zoo.constant("logits", [[7, 7]])
    then, otherwise = inner("then", [], "logits", [constant]), inner("else", [plus("x", 1, "less")], "less")
    made = tidied(model(branches(then, otherwise), ["y"], [ONE, zoo.constant("zero", 0)]), ["logits"])
    names = [value.name for inside in graph.graphs(made.graph) for value in (*inside.output, *inside.initializer)]
    assert names.count("logits") == 1
    np.testing.assert_array_equal(run(made, x=ROWS)["logits"], [[7, 7]])


def test_one_value_given_out_twice_becomes_two_outputs():
    made = model([plus("x", 1, "2")], ["2"], [ONE])
    made.graph.output.append(made.graph.output[0])  # as torch's TorchScript exporter writes `return y, y`
    answer = run(tidied(made, ["first", "second"]), x=ROWS)
    np.testing.assert_array_equal(answer["first"], ROWS + 1)
    np.testing.assert_array_equal(answer["second"], ROWS + 1)


def test_an_input_given_out_again_keeps_its_name():
    made = model([plus("x", 1, "y")], ["y"], [ONE])
    made.graph.output.append(zoo.tensor("x", ["s77", "s12"]))
    answer = run(tidied(made, ["y", "same"]), x=ROWS)
    np.testing.assert_array_equal(answer["same"], ROWS)
    assert [value.name for value in made.graph.input] == ["x"]


def test_an_output_cannot_have_the_name_of_an_input():
    with pytest.raises(ExportFailed, match="output x: an input has the same name; name the outputs with --output"):
        tidied(model([plus("x", 1, "y")], ["y"], [ONE]), ["x"])


def test_an_input_that_stands_in_gets_its_name_whatever_has_it_inside():
    own = graph.stand_in(0)
    made = model([plus(own, 1, "x"), plus("x", 2, "y")], ["y"], [ONE, TWO], inputs=(own,))
    np.testing.assert_array_equal(run(tidied(made, ["y"]), x=ROWS)["y"], ROWS + 3)


def test_weights_are_no_inputs():
    made = model([plus("x", 1, "y")], ["y"], [ONE])
    made.graph.input.append(zoo.tensor("c1", [1, 1]))  # as files of IR version 3 have them
    tidied(made, ["y"])
    assert [value.name for value in made.graph.input] == ["x"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        ((X, InputSpec("mask", "float32", ("batch", 2))), ["y"], "input mask: the model does not use it"),
        ((), ["y"], "the exporter wrote an unknown input 'x'; the model has none"),
        ((X,), ["y", "z"], "the exporter wrote 1 outputs, but the model has 2"),
    ],
)
def test_a_graph_with_other_inputs_or_outputs_is_refused(inputs, outputs, says):
    with pytest.raises(ExportFailed, match=says):
        tidied(model([plus("x", 1, "y")], ["y"], [ONE]), outputs, inputs)


def noted():
    """A model with notes of where it was made on every part, and wrong inner shapes."""
    then = inner("then", [plus("x", 1, "a")], "a")
    made = model(branches(then, inner("else", [plus("x", 2, "b")], "b")), ["y"], [ONE, TWO, zoo.constant("zero", 0)])
    made.doc_string = made.graph.doc_string = "/srv/someone/secret.py"
    made.graph.value_info.append(zoo.tensor("sum", [3, 3]))
    made.metadata_props.add(key="stack_trace", value="/srv/someone/secret.py")
    for inside in graph.graphs(made.graph):
        for part in (inside, *inside.node, *inside.output, *inside.initializer):
            part.metadata_props.add(key="stack_trace", value="/srv/someone/secret.py")
            part.doc_string = "/srv/someone/secret.py"
    function = helper.make_function("own", "F", ["u"], ["v"], [helper.make_node("Relu", ["u"], ["v"])], [])
    function.doc_string = function.node[0].doc_string = "/srv/someone/secret.py"
    function.metadata_props.add(key="stack_trace", value="/srv/someone/secret.py")
    made.functions.append(function)
    return made


def test_nothing_of_where_it_was_made_stays():
    made = noted()
    assert b"secret" in made.SerializeToString()
    tidied(made, ["y"])
    assert b"secret" not in made.SerializeToString()
    assert not made.graph.value_info


def test_what_an_adopted_model_says_of_itself_stays():
    made = zoo.double()
    made.doc_string = "Doubles."
    helper.set_model_props(made, {"labels": '{"y": ["a", "b", "c"]}', "alphabet": "abc"})
    graph.tidy(made, [InputSpec("x", "float32", ("batch", 3))], ["y"], dict.fromkeys("xy", ("batch", 3)), adopted=True)
    graph.annotate(made, [X], {"y": ("batch", 3)}, {}, None)
    kept = {entry.key: entry.value for entry in made.metadata_props}
    assert (kept["alphabet"], made.doc_string) == ("abc", "Doubles.")


def test_signature_labels_and_doc_are_written_into_the_file():
    made = zoo.double()
    graph.annotate(made, [X], {"y": ("batch", 2)}, {"y": ["Löwe", "cat"]}, "It doubles.")
    meta = onnxruntime.InferenceSession(made.SerializeToString()).get_modelmeta()
    assert meta.description == "It doubles."
    assert json.loads(meta.custom_metadata_map["labels"]) == {"y": ["Löwe", "cat"]}
    assert json.loads(meta.custom_metadata_map["signature"]) == {
        "inputs": {"x": ["float32", ["batch", 2]]},
        "outputs": {"y": ["batch", 2]},
    }


@pytest.mark.parametrize(("above", "files"), [(1 << 30, {"model.onnx"}), (1000, {"model.onnx", "model.onnx.data"})])
def test_weights_of_a_size_go_to_a_file_of_their_own(tmp_path, above, files):
    made = zoo.mlp()
    graph.write(made, tmp_path / "model.onnx", above)
    assert {path.name for path in tmp_path.iterdir()} == files
    graph.check(tmp_path / "model.onnx")
    assert {path.name for path in tmp_path.iterdir()} == files
    rows = np.ones((2, 64), np.float32)
    (answer,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": rows})
    (wanted,) = onnxruntime.InferenceSession(zoo.mlp().SerializeToString()).run(None, {"x": rows})
    np.testing.assert_array_equal(answer, wanted)


def test_an_operator_that_does_not_exist_is_refused(tmp_path):
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("Erfc", ["x"], ["y"])], "g", [zoo.tensor("x", ["b"])], [zoo.tensor("y", ["b"])]
        )
    )
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(NotProved, match=r"violates the ONNX standard: .*Erfc"):
        graph.check(tmp_path / "model.onnx")


def test_declared_shapes_that_contradict_the_nodes_are_refused(tmp_path):
    made = zoo.mlp()
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 11
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(NotProved, match="violates the ONNX standard"):
        graph.check(tmp_path / "model.onnx")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ExportFailed, match=r"model.onnx: cannot be read as ONNX"):
        graph.read(tmp_path / "model.onnx")


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
    graph.restore_declarations(made, graph.declarations(made))
    onnx.checker.check_model(made, full_check=True)


def test_domains_that_no_node_uses_are_dropped_and_none_stands_twice():
    made = zoo.double()
    made.opset_import.extend([helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)])
    graph.restore_declarations(made, graph.declarations(made))
    assert graph.opsets(made) == {"ai.onnx": 21}
    assert len(made.opset_import) == 1
