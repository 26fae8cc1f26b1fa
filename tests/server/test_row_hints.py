"""What a conversion report says of a model's inputs: only what can be drawn from reaches the check of rows."""

import json
import os

import numpy as np
import pytest

from onnxserve.tensor import DataType
from onnxserve_server.runtime.row_hints import faults_of, read_hints
from onnxserve_server.spec import TensorSpec

UINT8, DOUBLE = DataType.DATA_TYPE_UINT8, DataType.DATA_TYPE_DOUBLE


@pytest.mark.parametrize(
    ("data_type", "given", "used"),
    [
        (UINT8, [3, 9], (3, 9)),
        (UINT8, [200, 400], (200, 255)),
        (UINT8, [300, 400], None),
        (DOUBLE, [-2.5, 2.5], (-2.5, 2.5)),
        (DOUBLE, [1, 0], None),
        (DOUBLE, ["a", 1], None),
    ],
)
def test_a_range_is_kept_within_the_type(tmp_path, data_type, given, used):
    (tmp_path / "report.json").write_text(json.dumps({"check": {"ranges": {"x": given}}}))
    spec = TensorSpec(name="x", data_type=data_type, shape=("batch",))
    assert read_hints(tmp_path / "report.json", [spec]).ranges == ({} if used is None else {"x": used})


def test_numpy_can_draw_from_the_widest_range(tmp_path):
    (tmp_path / "report.json").write_text('{"check": {"ranges": {"x": [-1.7e308, 1.7e308]}}}')
    spec = TensorSpec(name="x", data_type=DOUBLE, shape=("batch",))
    limits = read_hints(tmp_path / "report.json", [spec]).ranges["x"]
    assert np.isfinite(np.random.default_rng(0).uniform(*limits))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "report.json")
    assert read_hints(tmp_path / "report.json", []).ranges == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("not JSON", "not a JSON object of at most 8 MiB"),
        ("[]", "not a JSON object of at most 8 MiB"),
        ('{"check": 7}', "check: not an object"),
        ('{"check": {"rangez": {}}}', "check.rangez: only check.ranges and check.rows are known"),
        ('{"check": {"rows": 7}}', "check.rows: not an object with a value for each input"),
        ('{"check": {"ranges": {"xx": [0, 1]}}}', "check.ranges.xx: the model has no such input; it has x"),
        (
            '{"check": {"ranges": {"x": [5, -5]}}}',
            "check.ranges.x: not the smallest and the largest number of the input's type",
        ),
        ('{"check": {"rows": {"x": [[1, 2]]}}}', "check.rows.x: not a list of rows of the input's type and shape"),
        ('{"check": {"ranges": {"x": []}, "rows": {"x": [1, 2]}}, "asked": {}}', ""),
        ("{}", ""),
    ],
)
def test_what_of_a_report_cannot_be_used_is_told(tmp_path, text, fault):
    (tmp_path / "report.json").write_text(text)
    spec = TensorSpec(name="x", data_type=DOUBLE, shape=("batch",))
    assert faults_of(tmp_path / "report.json", [spec]) == ([fault] if fault else [])
    assert faults_of(tmp_path / "nothing.json", [spec]) == []
