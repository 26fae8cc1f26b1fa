"""Samples as callers have them: arrays and tables."""

import numpy as np
import pandas
import pytest

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.samples import read_samples

IDS = InputSpec("ids", "int64", ("batch", "time"))
FEATURES = InputSpec("features", "float32", ("batch", 2))


def test_samples_are_read_from_a_file(tmp_path):
    np.savez(tmp_path / "some.npz", ids=np.zeros((2, 3), np.int64), words=np.array(["a", "b"]))
    arrays = read_samples(tmp_path / "some.npz", [IDS, InputSpec("words", "string", ("batch",))])
    assert arrays["ids"].shape == (2, 3)
    assert arrays["words"].dtype == object


@pytest.mark.parametrize("content", ["absent", "text", "one array", "cut off", "pickled"])
def test_a_file_that_holds_no_arrays_is_refused(tmp_path, content):
    path = tmp_path / "some.npz"
    if content == "text":
        path.write_text("nothing")
    elif content == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content != "absent":
        np.savez(path, ids=np.array([{}]) if content == "pickled" else np.zeros((2, 3), np.int64))
    if content == "cut off":
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadRequest, match=r"some.npz: not a readable .npz file") as caught:
        read_samples(path, [IDS])
    assert ("numpy.array(values, dtype=str)" in str(caught.value)) is (content == "pickled")


def test_a_missing_array_is_named(tmp_path):
    np.savez(tmp_path / "some.npz", id=np.zeros((2, 3), np.int64))
    with pytest.raises(BadRequest, match="array 'ids' is missing; the file has id"):
        read_samples(tmp_path / "some.npz", [IDS])


def test_the_array_of_the_only_input_needs_no_name(tmp_path):
    np.save(tmp_path / "some.npy", np.zeros((2, 3), np.int64))
    assert read_samples(tmp_path / "some.npy", [IDS])["ids"].shape == (2, 3)
    with pytest.raises(BadRequest, match=r"one array for 2 inputs; give an \.npz file with ids, features"):
        read_samples(tmp_path / "some.npy", [IDS, FEATURES])


@pytest.fixture(params=["csv", "parquet"])
def table(tmp_path, request):
    """Write a table, and return its path."""

    def write(**columns):
        path = tmp_path / f"some.{request.param}"
        frame = pandas.DataFrame(columns)
        frame.to_csv(path, index=False) if request.param == "csv" else frame.to_parquet(path)
        return path

    return write


def test_a_table_has_a_column_for_each_input(table):
    path = table(age=[1.5, None], color=["red", None], flag=[True, False], count=[3, 4], label=["no", "yes"])
    inputs = [
        InputSpec("age", "float32", ("batch", 1)),
        InputSpec("color", "string", ("batch", 1)),
        InputSpec("flag", "bool", ("batch",)),
        InputSpec("count", "int64", ("batch", 1)),
    ]
    arrays = read_samples(path, inputs)
    np.testing.assert_array_equal(arrays["age"], np.float32([[1.5], [np.nan]]))
    assert arrays["color"].tolist() == [["red"], [""]]
    assert arrays["flag"].tolist() == [True, False]
    assert (arrays["count"].dtype, arrays["count"].tolist()) == (np.int64, [[3], [4]])
    assert arrays["label"].tolist() == ["no", "yes"]


def test_a_table_has_all_features_of_one_input_by_name_or_in_order(table):
    path = table(b=[1, 2], a=[3.0, None], label=[0, 1])
    in_order = read_samples(path, [FEATURES])
    np.testing.assert_array_equal(in_order["features"], np.float32([[1, 3], [2, np.nan]]))
    assert in_order["label"].tolist() == [0, 1]
    named = read_samples(path, [InputSpec("features", "float32", ("batch", 2), columns=("a", "b"))])
    np.testing.assert_array_equal(named["features"], np.float32([[3, 1], [np.nan, 2]]))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (InputSpec("features", "float32", ("batch", 3)), "2 columns for features=float32"),
        (
            InputSpec("features", "float32", ("batch", 2), columns=("a", "c")),
            "column 'c' is missing; the table has a",
        ),
        (InputSpec("features", "int64", ("batch", 2)), "values are missing"),
        (InputSpec("b", "float32", ("batch", 1)), "columns b are not float32"),
        (InputSpec("image", "float32", ("batch", 3, 8, 8)), "a table has two axes"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, spec, says):
    with pytest.raises(BadRequest) as caught:
        read_samples(table(a=[1.0, None], b=["x", "y"]), [spec])
    assert says in str(caught.value)


def test_a_column_of_fractions_is_not_cut_to_whole_numbers(table):
    with pytest.raises(BadRequest, match="columns count are not int64"):
        read_samples(table(count=[1.5, 2.0]), [InputSpec("count", "int64", ("batch",))])


def test_a_file_that_is_not_a_table_is_refused(tmp_path):
    (tmp_path / "some.parquet").write_text("nothing")
    with pytest.raises(BadRequest, match=r"some.parquet: cannot be read as a table"):
        read_samples(tmp_path / "some.parquet", [FEATURES])
