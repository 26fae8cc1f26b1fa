"""What a report says of realistic inputs: JSON that every reader takes, and only what is known."""

import json

import numpy as np
import pytest

from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.row_hints import describe_inputs

INPUTS = [InputSpec(name="x", dtype="float32", shape=("batch", 2))]


def described(array):
    return describe_inputs(INPUTS, {}, {}, {"x": np.array(array, np.float32).reshape(-1, 2)})


def test_finite_samples_give_a_range_and_rows():
    assert described([[1, 2], [3, 4]]) == {"ranges": {"x": [1, 4]}, "rows": {"x": [[1, 2], [3, 4]]}}


@pytest.mark.parametrize("array", [[[1, np.nan]], [[np.inf, 1]], []], ids=["NaN", "infinity", "empty"])
def test_what_json_cannot_express_and_empty_samples_are_left_out(array):
    assert json.dumps(described(array), allow_nan=False) == "{}"
