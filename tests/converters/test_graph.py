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
