"""Where a model's rows lie: as model.yaml says, else as the model file's metadata says, else along the first axis."""

import json
from pathlib import Path

import onnx
import pytest

from onnxserve.tensor import DataType
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.axes import BatchAxes, placed
from onnxserve_server.runtime.session import Session, SessionOptions
from onnxserve_server.spec import TensorSpec
from support import zoo


def spec(name, *shape):
    return TensorSpec(name=name, data_type=DataType.DATA_TYPE_FLOAT, shape=shape)


INPUTS = (spec("x", "batch", 3), spec("state", 2, "batch", ""), spec("scale"))
OUTPUTS = (spec("y", "batch", 3), spec("stateN", 2, "batch", 3))


def axes(metadata=None, **told):
    inputs, outputs = placed(
        Path("model.onnx"), BatchAxes(file="model.yaml", **told), INPUTS, OUTPUTS, {} if metadata is None else metadata
    )
    return {spec.name: spec.batch_axis for spec in inputs + outputs}


FIRST = dict.fromkeys(("x", "state", "scale", "y", "stateN"), 0)


def test_rows_lie_along_the_first_axis_where_nothing_is_said():
    assert axes() == FIRST


def test_model_yaml_names_other_axes_and_inputs_without_one():
    told = axes(batch_axis={"state": 1, "stateN": 1}, shared=["scale"])
    assert told == FIRST | {"state": 1, "stateN": 1, "scale": None}


def test_the_metadata_counts_where_model_yaml_says_nothing_and_loses_what_was_taken():
    metadata = {"batch_axis": '{"state": 1}', "shared": '["scale"]', "author": "us"}
    assert axes(metadata) == FIRST | {"state": 1, "scale": None}
    assert metadata == {"author": "us"}


def test_model_yaml_wins_key_by_key():
    metadata = {"batch_axis": '{"state": 1}', "shared": '["scale"]'}
    assert axes(metadata, batch_axis={}) == FIRST | {"scale": None}
    assert metadata == {"batch_axis": '{"state": 1}'}


@pytest.mark.parametrize(
    "text", ["", "1", "null", "{", '{"state": "1"}', '{"state": true}', '["state"]', "{}", "state"]
)
def test_metadata_of_other_tools_under_these_names_is_left_alone(text):
    metadata = {"batch_axis": text, "shared": text.replace("[", "{")}
    assert axes(metadata) == FIRST


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ({"batch_axis": {"z": 1}}, "batch_axis.z: the model has no such input or output; it has x, state, scale, y, "),
        (
            {"batch_axis": {"state": 3}},
            "batch_axis.state: its shape [2, batch, ?] has no axis 3; they are counted from 0",
        ),
        ({"batch_axis": {"state": -2}}, "batch_axis.state: its shape [2, batch, ?] has no axis -2; "),
        ({"batch_axis": {"scale": 0}}, "batch_axis.scale: its shape [] has no axis 0; "),
        ({"batch_axis": {"stateN": 2}}, "batch_axis.stateN: its axis 2 has the fixed size 3"),
        ({"shared": ["z"]}, "shared.z: the model has no such input; it has x, state, scale"),
        ({"shared": ["y"]}, "shared.y: it is an output; only inputs can be shared"),
        ({"shared": ["x", "state", "scale"]}, "shared: no input is left that has rows"),
        ({"batch_axis": {"state": 1}, "shared": ["state"]}, "shared.state: it cannot have a batch_axis, too"),
    ],
)
def test_what_the_model_has_not_is_refused_with_the_file_and_the_key(told, fault):
    with pytest.raises(ConfigurationError) as raised:
        axes(**told)
    assert str(raised.value).startswith(f"model.yaml: {fault}")
    with pytest.raises(ConfigurationError) as raised:
        axes({key: json.dumps(value) for key, value in told.items()})
    assert str(raised.value).startswith(f"model.onnx: {fault}")


@pytest.mark.parametrize(
    ("model", "told", "steady"),
    [
        (zoo.double(), {}, True),
        (zoo.sequence(), {}, False),
        (zoo.layered(), {}, False),
        (zoo.layered(), {"batch_axis": {"state": 1, "stateN": 1}, "shared": ["scale"]}, True),
        (zoo.lookup(), {"batch_axis": {"id": 1, "y": 1}, "shared": ["table"]}, False),
    ],
    ids=["double", "sequence", "layered, undeclared", "layered", "a shared input with a free axis"],
)
def test_the_time_of_a_run_is_steady_where_no_axis_but_that_of_the_rows_is_free(tmp_path, model, told, steady):
    onnx.save(model, tmp_path / "model.onnx")
    assert Session(tmp_path / "model.onnx", SessionOptions(axes=BatchAxes(**told))).fixed_cost is steady
