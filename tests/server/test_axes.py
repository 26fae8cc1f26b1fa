"""Where a model's rows lie: as model.yaml says, else as the model file's metadata says, else along the first axis."""

import json

import onnx
import pytest

from onnxserve.tensor import DataType
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.axes import BatchAxes, assign_axes
from onnxserve_server.runtime.session import Session, SessionOptions
from onnxserve_server.spec import TensorSpec
from support import zoo


def spec(name, *shape):
    return TensorSpec(name=name, data_type=DataType.DATA_TYPE_FLOAT, shape=shape)


INPUTS = (spec("x", "batch", 3), spec("state", 2, "batch", ""), spec("scale"))
OUTPUTS = (spec("y", "batch", 3), spec("stateN", 2, "batch", 3))


def assign(metadata=None, **config):
    """The axes by name, and the metadata that is left."""
    configured = BatchAxes(file="model.yaml", **config)
    assigned = assign_axes(configured, INPUTS, OUTPUTS, metadata or {})
    return {spec.name: spec.batch_axis for spec in assigned.inputs + assigned.outputs}, assigned.metadata


def axes(metadata=None, **config):
    return assign(metadata, **config)[0]


FIRST = dict.fromkeys(("x", "state", "scale", "y", "stateN"), 0)


def test_rows_lie_along_the_first_axis_where_nothing_is_said():
    assert axes() == FIRST


def test_model_yaml_names_other_axes_and_inputs_without_one():
    found = axes(batch_axis={"state": 1, "stateN": 1}, shared=["scale"])
    assert found == FIRST | {"state": 1, "stateN": 1, "scale": None}


def test_the_metadata_counts_where_model_yaml_says_nothing_and_used_keys_are_left_out():
    metadata = {"batch_axis": '{"state": 1}', "shared": '["scale"]', "author": "us"}
    given = dict(metadata)
    assert assign(metadata) == (FIRST | {"state": 1, "scale": None}, {"author": "us"})
    assert metadata == given


def test_model_yaml_wins_key_by_key():
    metadata = {"batch_axis": '{"state": 1}', "shared": '["scale"]'}
    assert assign(metadata, batch_axis={}) == (FIRST | {"scale": None}, {"batch_axis": '{"state": 1}'})


@pytest.mark.parametrize(
    "text", ["", "1", "null", "{", '{"state": "1"}', '{"state": true}', '["state"]', "state", "[" * 100_000]
)
def test_metadata_of_other_tools_under_these_names_is_left_alone(text):
    metadata = {"batch_axis": text, "shared": text.replace("[", "{")}
    assert assign(metadata) == (FIRST, metadata)


def test_empty_metadata_changes_nothing():
    assert axes({"batch_axis": "{}", "shared": "[]"}) == FIRST


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"batch_axis": {"z": 1}}, "batch_axis.z: unknown input or output; the model's are x, state, scale, y, "),
        (
            {"batch_axis": {"state": 3}},
            "batch_axis.state: its shape [2, batch, ?] has no axis 3; axes are counted from 0",
        ),
        ({"batch_axis": {"state": -2}}, "batch_axis.state: its shape [2, batch, ?] has no axis -2; "),
        ({"batch_axis": {"scale": 0}}, "batch_axis.scale: its shape [] has no axis 0; "),
        ({"batch_axis": {"stateN": 2}}, "batch_axis.stateN: axis 2 has the fixed size 3"),
        ({"shared": ["z"]}, "shared.z: unknown input; the model's inputs are x, state, scale"),
        ({"shared": ["y"]}, "shared.y: it is an output; only inputs can be shared"),
        ({"shared": ["x", "state", "scale"]}, "shared: at least one input must have rows"),
        (
            {"batch_axis": {"state": 1}, "shared": ["state"]},
            "shared.state: a shared input has no rows; remove it from batch_axis",
        ),
    ],
)
def test_unknown_names_and_axes_are_refused_in_model_yaml_and_ignored_in_metadata(config, fault):
    with pytest.raises(ConfigurationError) as raised:
        axes(**config)
    assert str(raised.value).startswith(f"model.yaml: {fault}")
    metadata = {key: json.dumps(value) for key, value in config.items()}
    assigned = assign_axes(BatchAxes(), INPUTS, OUTPUTS, metadata)
    key = list(config)[-1]
    assert key in assigned.metadata
    if "unknown" in fault:  # another tool's, not a word of ours
        assert assigned.ignored == {}
    else:
        assert assigned.ignored[key].startswith(fault)


def test_what_model_yaml_shares_has_no_axis_whatever_the_metadata_says():
    assert axes({"batch_axis": '{"state": 1}'}, shared=["state"]) == FIRST | {"state": None}
    assigned = assign_axes(BatchAxes(batch_axis={"state": 1}), INPUTS, OUTPUTS, {"shared": '["state"]'})
    assert assigned.ignored == {"shared": "shared.state: a shared input has no rows; remove it from batch_axis"}


@pytest.mark.parametrize(
    ("model", "config", "fixed_cost"),
    [
        (zoo.double(), {}, True),
        (zoo.sequence(), {}, False),
        (zoo.layered(), {}, False),
        (zoo.layered(), {"batch_axis": {"state": 1, "stateN": 1}, "shared": ["scale"]}, True),
        (zoo.lookup(), {"batch_axis": {"id": 1, "y": 1}, "shared": ["table"]}, False),
    ],
    ids=["double", "sequence", "layered, undeclared", "layered", "a shared input with a free axis"],
)
def test_the_cost_of_a_run_is_fixed_if_only_the_batch_axis_is_free(tmp_path, model, config, fixed_cost):
    onnx.save(model, tmp_path / "model.onnx")
    assert Session(tmp_path / "model.onnx", SessionOptions(axes=BatchAxes(**config))).fixed_cost is fixed_cost
