import json

import numpy as np
import pytest

from onnxserve_converters.cases import Case
from onnxserve_converters.comparison import compare, unread_notes
from onnxserve_converters.errors import BadRequest, NotProved
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.parity import Reference, check_parity, check_repeats, observed_axes, run_reference
from onnxserve_converters.request import TOLERANCES

ROWS = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)


class Model:
    """The part of sources.base.Model that run_reference() uses: a function of one input x."""

    inputs = (InputSpec("x", "float32", ("batch", 100)),)

    def __init__(self, function):
        self.function = function

    def run(self, feeds):
        return self.function(feeds["x"])


def case(rows=4, **sizes):
    return Case({"batch": rows, **sizes}, {"x": np.resize(ROWS, (rows, 100))})


def references(function, *rows):
    return run_reference(Model(function), map(case, rows), ())


def same(x):
    return {"y": x * 2}


def verdict(got, wanted, **options):
    got, wanted = np.asarray(got), np.asarray(wanted)
    return compare("y", {}, got, wanted, tolerances=TOLERANCES, **options)


def test_equal_arrays_have_no_error():
    row = verdict(ROWS, ROWS)
    assert (row.error, row.relative, row.passes) == (0, 0, True)


@pytest.mark.parametrize(("dtype", "share"), [("float16", 1e-2), ("float32", 1e-4), ("float64", 1e-6)])
@pytest.mark.parametrize("scale", [1, 1e3])
def test_the_tolerance_is_a_share_of_the_largest_magnitude(dtype, share, scale):
    wanted = np.array([0.001, -1, 0.5]) * scale
    for part, passes in ((0.5, True), (2, False)):
        got = wanted + np.array([part * share * scale, 0, 0])
        row = verdict(got.astype(dtype), wanted.astype(dtype))
        assert row.passes is passes, row
        assert row.relative == pytest.approx(row.error / scale, rel=1e-3)


def test_an_error_far_below_any_tolerance_passes_even_where_the_output_is_nothing():
    assert verdict(np.float32([1e-7]), np.float32([0])).passes
    assert not verdict(np.float32([1e-3]), np.float32([0])).passes


def test_integers_strings_and_truth_values_must_be_equal():
    assert verdict([1, 2], [1, 2]).passes
    row = verdict([1, 2, 3], [1, 5, 6])
    assert (row.error, row.allowed, row.passes) == (2, 0, False)
    assert not verdict([True], [False]).passes
    assert not verdict(np.array(["a"], object), np.array(["b"], object)).passes


def test_what_is_not_finite_must_be_so_in_the_same_places():
    wanted = np.float32([1, np.nan, np.inf, -np.inf])
    assert verdict(wanted, wanted).passes
    for other in ([np.nan, 1, np.inf, -np.inf], [1, np.nan, -np.inf, np.inf], [1, np.nan, 5, -np.inf]):
        row = verdict(np.float32(other), wanted)
        assert not row.passes
        assert json.loads(json.dumps(row.to_dict(), allow_nan=False))["error"] is None


def test_one_bound_can_stand_in_for_all_tolerances_of_floats():
    assert verdict(np.float32([1.04]), np.float32([1]), max_error=0.05).passes
    assert not verdict(np.float32([1.06]), np.float32([1]), max_error=0.05).passes
    assert not verdict([2], [1], max_error=0.05).passes


def test_bfloat16_is_compared_as_numbers():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    wanted = np.array([1, -2], ml_dtypes.bfloat16)
    assert verdict((wanted.astype(np.float32) * 1.01).astype(ml_dtypes.bfloat16), wanted).passes
    assert not verdict(wanted + wanted, wanted).passes


def test_every_case_and_output_is_compared():
    answers = references(lambda x: {"y": x * 2, "z": x.sum(axis=1)}, 1, 2, 7)
    rows = check_parity(lambda feeds: {"y": feeds["x"] * 2, "z": feeds["x"].sum(axis=1)}, answers, TOLERANCES)
    assert [(row.sizes["batch"], row.output) for row in rows] == [(n, name) for n in (1, 2, 7) for name in "yz"]


def test_a_perturbed_weight_is_found():
    weight = np.random.default_rng(1).normal(size=(100, 10)).astype(np.float32)
    wrong = weight.copy()
    wrong[3, 4] += 0.1
    answers = references(lambda x: {"y": x @ weight}, 1, 2, 7, 32)
    assert check_parity(lambda feeds: {"y": feeds["x"] @ weight}, answers, TOLERANCES)
    with pytest.raises(NotProved, match=r"output y with batch=1: error .*, allowed .* \(and 3 more\)") as caught:
        check_parity(lambda feeds: {"y": feeds["x"] @ wrong}, answers, TOLERANCES)
    assert [row["passes"] for row in caught.value.report["parity"]] == [False] * 4
    assert len(caught.value.report["faults"]) == 4


def test_rows_that_differ_are_named():
    def wrong(feeds):
        off = feeds["x"] * 2
        off[1:3, 5] += 1
        return {"y": off}

    with pytest.raises(NotProved, match=r"error .*, allowed .*, in 1 of 2 rows \(1\) \(and 1 more\)") as caught:
        check_parity(wrong, references(same, 2, 4), TOLERANCES, batch="batch")
    assert [row["rows"] for row in caught.value.report["parity"]] == [[1], [1, 2]]


def test_rows_of_labels_that_differ_are_named():
    answers = references(lambda x: {"y": x[:, 0] > 0}, 2, 4)
    with pytest.raises(NotProved, match=r"in 1 of 4 rows \(3\)"):
        check_parity(
            lambda feeds: {"y": (feeds["x"][:, 0] > 0) ^ (np.arange(len(feeds["x"])) == 3)}, answers, TOLERANCES,
            batch="batch",
        )  # fmt: skip


def test_what_nobody_reads_may_differ_and_is_noted_but_nothing_else():
    unread = np.arange(100) < np.array([0, 3, 5, 0])[:, None]
    answers = [Reference(case(), same(ROWS), unread)]
    (row,) = check_parity(lambda feeds: {"y": np.where(unread, 9, feeds["x"] * 2)}, answers, TOLERANCES)
    assert row.passes
    assert "output y: before the first valid place" in unread_notes([row])[0]
    with pytest.raises(NotProved, match="output y"):
        check_parity(lambda feeds: {"y": np.where(~unread, 9, feeds["x"] * 2)}, answers, TOLERANCES)


def test_a_model_that_is_random_at_inference_is_named_as_the_cause():
    rng = np.random.default_rng(3)
    random = Model(lambda x: {"kept": x, "dropped": x * (rng.random(x.shape) < 0.9)})
    answers = run_reference(random, [case()], ())
    with pytest.raises(BadRequest, match=r"output dropped: the model is random.* eval\(\).*training=False"):
        check_repeats(random, answers, TOLERANCES)
    check_repeats(Model(same), references(same, 1, 2), TOLERANCES)


def test_a_frozen_axis_is_named_and_the_other_cases_are_still_run():
    def frozen(feeds):
        return {"y": feeds["x"].reshape(2, 100) * 2}

    with pytest.raises(
        NotProved, match=r"ONNX Runtime fails with batch=1 \(did the export fix an axis\? batch should be free"
    ) as caught:
        check_parity(frozen, references(same, 1, 2, 7), TOLERANCES)
    assert [row["sizes"] for row in caught.value.report["parity"]] == [{"batch": 2}]
    assert len(caught.value.report["faults"]) == 2


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda x: (x * 2)[:1], r"got float32\[1, 100\], expected float32\[2, 100\]"),
        (lambda x: (x * 2).astype(np.float64), r"got float64\[1, 100\], expected float32\[1, 100\]"),
    ],
    ids=["shape", "dtype"],
)
def test_another_shape_or_dtype_is_refused(wrong, says):
    with pytest.raises(NotProved, match=says):
        check_parity(lambda feeds: {"y": wrong(feeds["x"])}, references(same, 1, 2), TOLERANCES)


def test_outputs_are_renamed_in_their_order():
    (reference,) = run_reference(Model(lambda x: {"a": x, "b": x + 1}), [case()], ("one", "two"))
    np.testing.assert_array_equal(reference.outputs["two"], ROWS + 1)
    assert list(reference.outputs) == ["one", "two"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a", "b"), "--output: 2 names for 1 outputs; the model's outputs are y"),
        (("a", "a"), "--output a: already the name of another output"),
        (("x",), "--output x: already the name of another input"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, says):
    with pytest.raises(BadRequest, match=says):
        run_reference(Model(same), [case()], names)


def test_a_model_that_does_not_run_is_the_callers_to_describe():
    def broken(x):
        raise ValueError("too\n  narrow")

    with pytest.raises(
        BadRequest, match=r"the model fails in its own framework with batch=4: ValueError: too narrow; .* --input"
    ):
        references(broken, 4)


@pytest.mark.parametrize("answer", [{}, {"y": np.full((4, 2), np.nan)}], ids=["nothing", "not a number"])
def test_a_model_that_gives_nothing_to_compare_is_refused(answer):
    with pytest.raises(BadRequest, match=r"the model returns no|output y: the model returns no finite number"):
        references(lambda x: answer, 4)


def observe(function, *tried):
    answers = [Reference(Case(sizes, {}), {"y": np.zeros(function(**sizes))}) for sizes in tried]
    return observed_axes(answers)["y"]


def test_axes_are_named_after_those_of_the_inputs_that_they_follow():
    tried = [{"batch": b, "time": t} for b, t in ((1, 9), (2, 9), (7, 14), (32, 14))]
    assert observe(lambda batch, time: (batch, time, 10), *tried) == ("batch", "time", 10)
    assert observe(lambda batch, time: (time, batch), *tried) == ("time", "batch")
    assert observe(lambda batch, time: (batch * time, time - 2), *tried) == ("y_0", "y_1")
    assert observe(lambda batch, time: (), *tried) == ()


def test_an_axis_that_never_changed_is_fixed_even_if_it_has_the_size_of_a_free_one():
    assert observe(lambda batch: (batch, 7), {"batch": 1}, {"batch": 7}) == ("batch", 7)


def test_an_output_that_changes_its_number_of_axes_is_refused():
    with pytest.raises(BadRequest, match="output y: its number of axes changes with the sizes"):
        observe(lambda batch: (batch,) * min(batch, 2), {"batch": 1}, {"batch": 2})
