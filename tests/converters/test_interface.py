import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from onnxserve_converters.errors import ExportFailed
from onnxserve_converters.graph import annotate, graphs
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.interface import set_interface, stand_in
from support import zoo

X = InputSpec("x", "float32", ("batch", 2))


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
    set_interface(made, inputs, outputs, axes)
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
    names = [value.name for inside in graphs(made.graph) for value in (*inside.output, *inside.initializer)]
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
    own = stand_in(0)
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
    for inside in graphs(made.graph):
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
    set_interface(
        made, [InputSpec("x", "float32", ("batch", 3))], ["y"], dict.fromkeys("xy", ("batch", 3)), adopted=True
    )
    annotate(made, [X], {"y": ("batch", 3)}, {}, None)
    kept = {entry.key: entry.value for entry in made.metadata_props}
    assert (kept["alphabet"], made.doc_string) == ("abc", "Doubles.")
