import itertools

import numpy as np
import pytest

from onnxserve_converters.cases import Cases
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.inputs import InputSpec

IMAGE = InputSpec("image", "float32", ("batch", 3, 8, 8))
IDS = InputSpec("ids", "int64", ("batch", "time"))
MASK = InputSpec("mask", "bool", ("batch", "time"))


def cases(*inputs, sizes=None, ranges=None, samples=None):
    return Cases(inputs, sizes or {}, ranges or {}, samples)


def test_the_batch_is_tried_at_four_sizes_and_each_other_free_axis_at_two():
    tried = list(cases(IDS, MASK))
    assert [case.sizes["batch"] for case in tried] == [1, 2, 7, 32]
    assert len({case.sizes["time"] for case in tried}) == 2
    for case in tried:
        assert case.feeds["ids"].shape == case.feeds["mask"].shape == (case.sizes["batch"], case.sizes["time"])
        assert (case.feeds["ids"].dtype, case.feeds["mask"].dtype) == (np.int64, np.bool_)


@pytest.mark.parametrize("count", range(2, 8))
def test_axes_of_two_sizes_meet_in_all_ways(count):
    axes = [f"axis{i}" for i in range(count)]
    tried = list(cases(InputSpec("x", "float32", (1, *axes)), sizes=dict.fromkeys(axes, (2, 3))))
    for one, other in itertools.combinations(axes, 2):
        assert len({(case.sizes[one], case.sizes[other]) for case in tried}) == 4


def test_every_size_asked_for_is_tried():
    tried = list(cases(IDS, sizes={"batch": (1, 4), "time": (3, 5, 8, 13, 21)}))
    assert {case.sizes["time"] for case in tried} == {3, 5, 8, 13, 21}
    assert {case.sizes["batch"] for case in tried} == {1, 4}


def test_a_model_of_fixed_sizes_is_tried_once():
    (case,) = cases(InputSpec("x", "float32", (4, 3)))
    assert case.feeds["x"].shape == (4, 3)
    assert str(case) == "its fixed sizes"


@pytest.mark.parametrize("sizes", [{}, {"batch": (1, 2), "time": (1, 2)}, {"batch": (8, 16), "time": (8, 16)}])
def test_the_example_has_no_axis_of_one_and_no_two_alike(sizes):
    chosen = cases(IDS, sizes=sizes).example().sizes
    assert 1 not in chosen.values()
    assert sizes == {"batch": (1, 2), "time": (1, 2)} or len(set(chosen.values())) == len(chosen)


def test_values_are_random_and_the_same_each_time():
    spec = InputSpec("x", "float32", ("batch", 100))
    (first, *_), (again, *_) = cases(spec), cases(spec)
    np.testing.assert_array_equal(first.feeds["x"], again.feeds["x"])
    assert first.feeds["x"].min() < 0 < first.feeds["x"].max()


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("int64", 0, 999), ("uint8", 0, 255), ("int8", -128, 127), ("float16", -5, 5)]
)
def test_values_lie_in_their_range(dtype, low, high):
    spec = InputSpec("x", dtype, ("batch", 2000))
    values = next(iter(cases(spec, ranges={"x": (low, high)}))).feeds["x"]
    assert values.dtype == dtype
    assert low <= values.min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < values.max() <= high


def test_strings_and_types_that_numpy_lacks_are_made_too():
    (case, *_) = cases(InputSpec("s", "string", ("n",)), InputSpec("b", "bfloat16", ("n",)))
    assert set(case.feeds["s"]) <= {"a", "b", "c"}
    assert case.feeds["b"].dtype.name == "bfloat16"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"sizes": {"width": (1, 2)}}, "size width: unknown free axis; the model has batch, time"),
        ({"sizes": {"time": (16,)}}, "size time: expected two different sizes or more"),
        ({"sizes": {"time": ()}}, "size time: expected two different sizes or more"),
        ({"sizes": {"time": (0, 4)}}, "each at least 1"),
        ({"ranges": {"id": (0, 1)}}, "range id: unknown input; the model has ids, mask"),
        ({"ranges": {"ids": (5, 1)}}, "range ids: 5:1 is not a valid range of int64"),
        ({"ranges": {"ids": (0, float("inf"))}}, "range ids: 0:inf is not a valid range of int64"),
        ({"ranges": {"ids": (0, float("nan"))}}, "range ids: 0:nan is not a valid range of int64"),
        ({"ranges": {"mask": (0, 2)}}, "range mask: 0:2 is not a valid range of bool"),
        ({"ranges": {"ids": ["a"]}}, "range ids: does not fit the input, which is ids=int64[batch,time]"),
    ],
)
def test_what_the_model_has_not_is_refused(asked, says):
    with pytest.raises(BadRequest) as caught:
        cases(IDS, MASK, **asked)
    assert says in str(caught.value)


def test_values_that_a_dtype_cannot_have_are_refused():
    with pytest.raises(BadRequest, match="range x: 0:256 is not a valid range of uint8"):
        cases(InputSpec("x", "uint8", ("n",)), ranges={"x": (0, 256)})


def test_a_range_can_fix_booleans_and_list_strings():
    colors = InputSpec("color", "string", ("batch",))
    made = list(cases(colors, MASK, ranges={"color": ["red", ""], "mask": (1, 1)}))
    assert {color for case in made for color in case.feeds["color"]} == {"red", ""}
    assert all(case.feeds["mask"].all() for case in made)
    with pytest.raises(BadRequest, match=r"range color: does not fit the input, .*; expected color=value\|value"):
        cases(colors, ranges={"color": (0, 1)})


def test_samples_stand_in_for_random_values():
    samples = {"ids": np.arange(12).reshape(2, 6)}
    tried = list(cases(IDS, samples=samples))
    assert [case.sizes["batch"] for case in tried] == [1, 2, 7, 32]
    assert {case.sizes["time"] for case in tried} == {3, 6}
    for case in tried:
        np.testing.assert_array_equal(case.feeds["ids"][0], np.arange(case.sizes["time"]))
        assert case.feeds["ids"].shape == (case.sizes["batch"], case.sizes["time"])


def test_samples_of_length_one_still_try_two_lengths():
    tried = cases(IDS, samples={"ids": np.ones((2, 1), np.int64)})
    assert len({case.sizes["time"] for case in tried}) == 2
    assert tried.example().sizes["time"] > 1


@pytest.mark.parametrize(
    "sample",
    [
        np.zeros((2, 3, 8, 9), np.float32),
        np.zeros((2, 3, 8), np.float32),
        np.zeros((2, 3, 8, 8)),
        np.zeros((0, 3, 8, 8)),
    ],
    ids=["size", "axes", "dtype", "empty"],
)
def test_samples_that_do_not_fit_are_refused(sample):
    with pytest.raises(BadRequest, match=r"sample image: got .*, expected image=float32\[batch,3,8,8\]"):
        cases(IMAGE, samples={"image": sample})


def test_samples_of_different_lengths_are_refused():
    with pytest.raises(BadRequest, match="sample mask"):
        cases(IDS, MASK, samples={"ids": np.zeros((2, 4), np.int64), "mask": np.zeros((3, 4), np.bool_)})


class Prefixes:
    """Draws masks of ones, then zeros."""

    def __init__(self):
        self.notes = {"mask": "prefixes"}

    def draw(self, sizes, rng):
        lengths = rng.integers(1, sizes["time"], sizes["batch"], endpoint=True)
        return {"mask": np.arange(sizes["time"]) < lengths[:, None]}


def test_a_source_that_knows_its_rows_draws_them_but_ranges_and_samples_come_first():
    drawn = list(Cases((IDS, MASK), {}, {"ids": (5, 9)}, None, Prefixes()))
    assert all((np.diff(case.feeds["mask"].astype(int)) <= 0).all() for case in drawn)
    assert all(5 <= case.feeds["ids"].min() <= case.feeds["ids"].max() <= 9 for case in drawn)
    samples = {"ids": np.arange(6).reshape(2, 3), "mask": np.zeros((2, 3), bool)}
    assert not any(case.feeds["mask"].any() for case in Cases((IDS, MASK), {}, {}, samples, Prefixes()))
