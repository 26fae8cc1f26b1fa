"""Values that no batch before had."""

import numpy as np
import pytest

from onnxserve.tensor import DataType
from onnxserve_server.scheduling.batch import Batch, Slot
from onnxserve_server.scheduling.extremes import Extremes
from onnxserve_server.spec import TensorSpec


def spec(data_type=DataType.DATA_TYPE_FLOAT, **fields):
    return TensorSpec(name="x", data_type=data_type, **{"shape": ("batch", 2)} | fields)


@pytest.fixture
def batch_of(make_job):
    def make(*arrays, rows=1):
        return Batch([make_job(rows, inputs=(array,)) for array in arrays], rows * len(arrays), Slot())

    return make


def row(*values, dtype=np.float32):
    return np.array([values], dtype)


def test_a_row_with_a_value_beyond_all_others_is_named(batch_of):
    extremes = Extremes((spec(),))
    assert extremes.row_beyond(batch_of(row(1, 2), row(0, 3))) == 1
    extremes.take_in()
    assert extremes.row_beyond(batch_of(row(3, 1), row(0, 2))) is None
    assert extremes.row_beyond(batch_of(row(1, 1), row(1, 1), row(1, 4))) == 2
    assert extremes.row_beyond(batch_of(row(1, -1), row(1, 1))) == 0


def test_what_was_not_taken_in_is_beyond_again(batch_of):
    extremes = Extremes((spec(),))
    assert [extremes.row_beyond(batch_of(row(1, 2))) for _ in range(2)] == [0, 0]


def test_rows_along_another_axis_are_counted_along_it(batch_of):
    extremes = Extremes((spec(shape=(2, "batch"), batch_axis=1),))
    assert extremes.row_beyond(batch_of(np.array([[1], [2]], "f4"), np.array([[5], [2]], "f4"))) == 1


def test_not_a_number_and_no_values_are_never_beyond(batch_of):
    extremes = Extremes((spec(),))
    assert extremes.row_beyond(batch_of(row(np.nan, 1), row(1, 1))) is None
    assert extremes.row_beyond(batch_of(np.zeros((2, 0), np.float32), rows=2)) is None


@pytest.mark.parametrize(
    ("data_type", "values"),
    [
        (DataType.DATA_TYPE_STRING, np.array([["a", "b"]], object)),
        (DataType.DATA_TYPE_BOOL, np.array([[True, False]])),
        (DataType.DATA_TYPE_BFLOAT16, np.array([[1, 2]], np.uint16)),
    ],
)
def test_inputs_without_an_order_are_left_out(batch_of, data_type, values):
    assert Extremes((spec(data_type),)).row_beyond(batch_of(values)) is None


def test_shared_inputs_are_left_out(batch_of):
    assert Extremes((spec(batch_axis=None),)).row_beyond(batch_of(row(1, 2))) is None
