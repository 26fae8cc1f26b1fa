"""ONNX Runtime gives back what a single large run has needed."""

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from onnxserve_server.runtime.arena import Arena
from onnxserve_server.runtime.session import Session, SessionOptions
from support import zoo

LARGE = 64 << 20  # elements of four bytes


def expand():
    """y = x, expanded to the shape s."""
    node = helper.make_node("Expand", ["x", "s"], ["y"])
    return zoo.model([node], [zoo.tensor("x", [1]), zoo.tensor("s", [1], TensorProto.INT64)], [zoo.tensor("y", ["n"])])


def rss():
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize("arena", [True, False])
def test_the_memory_of_a_large_run_is_given_back(tmp_path, arena):
    path = tmp_path / "model.onnx"
    onnx.save(expand(), path)
    session = Session(path, SessionOptions(arena=arena))

    def run(elements):
        feeds = {"x": np.ones(1, np.float32), "s": np.array([elements])}
        return session.run(feeds, ["y"])[0].size

    run(4)
    before = rss()
    assert run(LARGE) == LARGE
    if arena:
        assert rss() - before > 2 * LARGE  # it would stay
    for _ in range(3):
        run(4)
    assert rss() - before < LARGE


def test_the_memory_of_what_lies_between_is_given_back_too(tmp_path):
    model = zoo.widened(1 << 20)
    model.graph.node[0].output[0] = "wide"
    model.graph.node.append(helper.make_node("ReduceSum", ["wide", "axis"], ["y"]))
    model.graph.initializer.append(zoo.constant("axis", [1], np.int64))
    model.graph.output[0].CopyFrom(zoo.tensor("y", ["batch", 1]))
    onnx.save(model, tmp_path / "model.onnx")
    session = Session(tmp_path / "model.onnx", SessionOptions())

    def run(rows):
        session.run({"x": np.ones((rows, 1), np.float32)}, ["y"])

    run(1)
    before = rss()
    run(32)
    assert rss() - before > LARGE
    for _ in range(3):
        run(1)
    assert rss() - before < LARGE


class Options:
    """Run options that count the entries they get."""

    def __init__(self):
        self.entries = []

    def add_run_config_entry(self, key, value):
        self.entries.append((key, value))


def test_runs_that_are_always_large_keep_their_memory():
    arena, options = Arena(), Options()
    for _ in range(5):
        arena.note(arena.prepare(options, []), [np.zeros(8 << 20, np.float32)])
    assert options.entries == []
    for _ in range(4):
        arena.note(arena.prepare(options, []), [np.zeros(8, np.float32)])
    assert options.entries == [("memory.enable_memory_arena_shrinkage", "cpu:0")]
