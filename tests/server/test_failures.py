"""Whose fault a failed run is: what real kernels say of values is told apart from want of memory and the rest."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxserve_server.runtime.failures import MemoryRefused, RunFailed, ValuesRefused, failure_of
from support import zoo

INT64 = TensorProto.INT64
FLOATS = np.zeros((1, 3), np.float32)
PAIR = {"x": FLOATS, "z": np.zeros((1, 2), np.float32)}
WEIGHT = [zoo.constant("w", np.zeros((5, 2)))]
SHAPE = {"x": FLOATS, "s": np.array([2, 2])}

# Each: a node, what it is given, and the beginning of what its kernel says.
REFUSED = [
    (helper.make_node("Gather", ["w", "s"], ["y"]), {"s": np.array([7])}, "Gather: indices element out of data bounds"),
    (
        helper.make_node("Gather", ["w", "s"], ["y"], name="/cuda_out of memory/Gather"),
        {"s": np.array([7])},
        "Gather '/cuda_out of memory/Gather': indices element out of data bounds",
    ),
    (helper.make_node("GatherND", ["w", "s"], ["y"]), {"s": np.array([[7]])}, "GatherND: invalid index"),
    (helper.make_node("GatherElements", ["w", "s"], ["y"]), {"s": np.array([[7, 1]])}, "GatherElements: "),
    (helper.make_node("Reshape", ["x", "s"], ["y"]), SHAPE, "Reshape: The input tensor cannot be reshaped"),
    (helper.make_node("Expand", ["x", "s"], ["y"]), SHAPE, "Expand: invalid expand shape"),
    (helper.make_node("ConstantOfShape", ["s"], ["y"]), {"s": np.array([-3])}, "ConstantOfShape: "),
    (helper.make_node("Concat", ["x", "z"], ["y"], axis=0), PAIR, "Concat: "),
    (helper.make_node("Add", ["x", "z"], ["y"]), PAIR, "Add: Attempting to broadcast an axis"),
    (helper.make_node("MatMul", ["x", "z"], ["y"]), PAIR, "MatMul: "),
    (helper.make_node("TopK", ["x", "s"], ["y", "i"]), {"x": FLOATS, "s": np.array([5])}, "TopK: k argument [5]"),
    (helper.make_node("Tile", ["x", "s"], ["y"]), {"x": FLOATS, "s": np.array([1, -2])}, "Tile: Tile repeat value"),
    (helper.make_node("Split", ["x", "s"], ["y"], axis=1), {"x": FLOATS, "s": np.array([9])}, "Split: "),
]


def error_of(node, feeds):
    """What ONNX Runtime raises for a graph of one node."""
    inputs = [
        zoo.tensor(name, [f"{name}{i}" for i in range(array.ndim)], INT64 if name == "s" else zoo.FLOAT)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph([node], "one", inputs, [zoo.tensor("y", None)], WEIGHT if "w" in node.input else [])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception) as error:  # ONNX Runtime has a class for each status
        onnxruntime.InferenceSession(made.SerializeToString(), options).run(None, feeds)
    return error.value


@pytest.mark.parametrize(("node", "feeds", "said"), REFUSED, ids=[node.op_type for node, *_ in REFUSED])
def test_what_a_kernel_says_of_values_is_the_callers_fault(node, feeds, said):
    failure = failure_of(error_of(node, feeds), has_run=True)
    assert isinstance(failure, ValuesRefused)
    assert str(failure).startswith(said)
    assert "onnxruntime_src" not in str(failure)


def test_more_memory_than_there_is_has_an_error_of_its_own():
    error = error_of(helper.make_node("ConstantOfShape", ["s"], ["y"]), {"s": np.array([1 << 45])})
    assert isinstance(failure_of(error, has_run=True), MemoryRefused)


def test_a_model_that_has_never_run_may_be_at_fault_itself():
    node, feeds, _ = REFUSED[4]
    assert type(failure_of(error_of(node, feeds), has_run=False)) is RunFailed
    node, feeds, _ = REFUSED[0]  # ONNX Runtime itself says that the argument is invalid
    assert isinstance(failure_of(error_of(node, feeds), has_run=False), ValuesRefused)


@pytest.mark.parametrize(
    "text",
    [
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'c' Status "
        "Message: CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR",
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Non-zero status code returned while running Resize node. Name:'' "
        "Status Message: not so",
        "[ONNXRuntimeError] : 1 : FAIL : Exiting due to terminate flag being set to true.",
        "something else",
    ],
)
def test_devices_missing_kernels_and_what_is_unknown_are_the_servers_fault(text):
    assert type(failure_of(RuntimeError(text), has_run=True)) is RunFailed
