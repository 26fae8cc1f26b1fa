"""Versions of a model: a sequence keeps to one, and its state with it."""

import shutil

import pytest

from support import zoo
from support.streaming import Line, error_of, expected, output, step

MODELS = {"recurrent": zoo.recurrent()}


@pytest.fixture(scope="module", params=["lane", "plain"])
def shared(request, serving, tmp_path_factory):
    """Versions 1 and 2 of a model serve: the state of 2 has the same shape, and it answers -1 times as much."""
    config = 'state: [{input: s, output: s_out}]\nversions: ["1", "2"]'
    root = zoo.write(tmp_path_factory.mktemp("models"), MODELS, {"recurrent": config})
    other = zoo.recurrent()
    next(each for each in other.graph.initializer if each.name == "three").CopyFrom(zoo.constant("three", -3))
    for version in ("2", "3"):
        folder = shutil.copytree(root / "recurrent" / "1", root / "recurrent" / version)
        (folder / "model.onnx").write_bytes(other.SerializeToString())
    with serving(root, edge=request.param) as server:
        yield server


@pytest.fixture
def stream(server):
    made = Line(server.stub)
    yield made
    made.close()
    made.call.cancel()


def test_a_step_names_the_version_of_its_sequence_or_none(stream):
    assert output(stream.ask(step("a", 1, predict={"version": "1"})))[0, 0] == expected((1,))[-1]
    for version in ("2", "9"):
        assert error_of(stream.ask(step("a", 1, predict={"version": version})))[::2] == (3, ["predict.version"])
    for version in ("", "1"):
        answer = stream.ask(step("a", 0, predict={"version": version}))
        assert answer.response.version == "1"
    assert output(answer)[0, 0] == expected((1, 0, 0))[-1]


def test_a_state_goes_on_in_the_version_that_made_it(stream):
    state = stream.ask(step("a", 1, predict={"version": "1"}, snapshot=True)).state
    assert state.version == "1"
    answer = stream.ask(step("b", 2, state=state))
    assert (answer.response.version, output(answer)[0, 0]) == ("1", expected((1, 2))[-1])


@pytest.mark.parametrize(("made_by", "asked_for"), [("1", "2"), ("3", ""), ("3", "2")])
def test_a_state_does_not_go_on_in_another_version(stream, made_by, asked_for):
    state = stream.ask(step("a", 1, predict={"version": "1"}, snapshot=True)).state
    state.version = made_by
    answer = stream.ask(step("b", 2, state=state, predict={"version": asked_for}))
    assert error_of(answer)[::2] == (3, ["sequence.state.version"])
    assert "start a new sequence" in answer.error.message


def test_a_state_without_a_version_goes_on_in_any(stream):
    state = stream.ask(step("a", 1, predict={"version": "1"}, snapshot=True)).state
    state.ClearField("version")
    assert output(stream.ask(step("b", 2, state=state)))[0, 0] == -expected((1, 2))[-1]
