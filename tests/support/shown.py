"""Models that put the status page to the test."""

import json
from pathlib import Path

import onnx
from onnx import helper

from support import zoo

ROOT = Path(__file__).parent.parent.parent
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LONG = "a-model-with-a-name-that-is-longer-than-a-narrow-window-is-wide-" + "x" * 80


def digits():
    """The example that reads digits."""
    return onnx.load(ROOT / "examples/models/digits/1/model.onnx")


def pixels(name, layout, dtype):
    """y = x for pictures: the shape in words, a free axis where it is no number."""
    shape = [int(size) if size.isdecimal() else size for size in layout.split()]
    nodes = [helper.make_node("Identity", ["x"], ["y"], name=name)]
    return zoo.model(nodes, [zoo.tensor("x", shape, dtype)], [zoo.tensor("y", shape, dtype)])


def labelled():
    """double(), whose names and texts are meant to be run by a browser."""
    made = zoo.double()
    for node in made.graph.node:
        node.input[:] = [HOSTILE if name == "x" else name for name in node.input]
    made.graph.input[0].name = HOSTILE
    made.graph.doc_string = made.doc_string = HOSTILE
    helper.set_model_props(made, {"labels": json.dumps({"y": [HOSTILE, "b", "c"]})})
    onnx.checker.check_model(made)
    return made
