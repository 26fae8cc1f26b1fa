"""An answer that is larger than one may be is refused, before its run where the graph tells."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxserve import InvalidArgument, ResourceExhausted
from support import zoo

MIB = 1 << 20


def expand():
    """y = zeros of the shape s: sixty bytes ask for any number of them."""
    node = helper.make_node("ConstantOfShape", ["s"], ["y"])
    return zoo.model([node], [zoo.tensor("s", ["k"], TensorProto.INT64)], [zoo.tensor("y", ["n"])])


def outer():
    """y = x^T x, for x of [batch, n]: the graph tells the size of y, [n, n]."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["t", "x"], ["y"])]
    return zoo.model(nodes, [zoo.tensor("x", ["batch", "n"])], [zoo.tensor("y", ["n", "n"])])


MODELS = {"expand": expand(), "outer": outer(), "double": zoo.double()}


def runs(server, model):
    return server.app.engine.table.resolve(model).run_seconds


def test_a_large_answer_is_refused_with_the_setting_that_bounds_it(serve):
    server = serve(MODELS, max_response_bytes=MIB)
    with pytest.raises(ResourceExhausted, match=r"most 1048576 may be sent \(max_response_bytes\)") as error:
        server.client.predict("expand", {"s": np.array([MIB])})
    assert (error.value.reason, error.value.metadata["output"]) == ("RESPONSE_TOO_LARGE", "y")
    assert error.value.metadata["response_bytes"] == str(4 * MIB)
    assert server.client.predict("expand", {"s": np.array([MIB // 4])})["y"].shape == (MIB // 4,)


def test_where_the_graph_tells_it_is_refused_before_the_run(serve):
    server = serve(MODELS, max_response_bytes=MIB)
    before = runs(server, "outer")
    with pytest.raises(ResourceExhausted, match=r"output 'y' of the shape \[600, 600\]"):
        server.client.predict("outer", {"x": np.ones((1, 600), np.float32)})
    assert runs(server, "outer") == before
    assert server.client.predict("outer", {"x": np.ones((1, 400), np.float32)})["y"].shape == (400, 400)


def test_the_bound_is_that_of_messages_unless_it_is_set(serve):
    server = serve({"expand": expand()}, max_message_bytes=MIB)
    with pytest.raises(ResourceExhausted, match="most 1048576 may be sent"):
        server.client.predict("expand", {"s": np.array([MIB])})


def test_a_request_larger_than_the_queue_names_the_settings(serve):
    server = serve({"double": zoo.double()}, max_message_bytes=64 * MIB, max_queue_bytes=MIB)
    with pytest.raises(InvalidArgument, match=r"max_queue_bytes 1048576; send less at a time, or raise them"):
        server.client.predict("double", {"x": np.ones((MIB // 8, 3), np.float32)})
