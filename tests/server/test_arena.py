"""ONNX Runtime gives back what a single large run has needed."""

import subprocess
import sys

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


def test_runs_that_are_always_large_keep_their_memory():
    arena = Arena()
    due = []
    for elements in [8 << 20] * 5 + [8] * 4:
        due.append(arena.is_due([]))
        arena.note([np.zeros(elements, np.float32)])
    assert due == [False] * 6 + [True] + [False] * 2  # after the first that was much smaller, and once


BOUNDED = """
import sys
from pathlib import Path

import numpy as np

from onnxserve_server.runtime.arena import bound_runs
from onnxserve_server.runtime.failures import MemoryRefused
from onnxserve_server.runtime.session import Session, SessionOptions

bound_runs(64 << 20)
one, another = (Session(Path(sys.argv[1]), SessionOptions()) for _ in range(2))


def run(session, mebibytes):
    feeds = {"x": np.ones(1, np.float32), "s": np.array([mebibytes << 18])}
    try:
        return session.run(feeds, ["y"])[0].nbytes >> 20
    except MemoryRefused as error:
        return str(error)


for session, mebibytes in ((one, 40), (another, 40), (one, 63), (another, 70), (another, 1 << 20), (another, 1)):
    print(run(session, mebibytes))
"""


def test_all_sessions_share_what_runs_may_take(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(expand(), path)
    ended = subprocess.run([sys.executable, "-c", BOUNDED, path], capture_output=True, text=True, check=True)
    *first, large, largest, last = ended.stdout.splitlines()
    assert first == ["40", "40", "63"]
    assert large == f"it asks for {70 << 20} bytes more, and {64 << 20} are left of --all-run-bytes"
    assert largest == f"it asks for {1 << 40} bytes more, and {64 << 20} are left of --all-run-bytes"
    assert last == "1"
    assert ended.stderr == ""
