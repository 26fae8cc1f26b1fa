"""Explanations of models that a real server serves, against what they must be."""

import os
import re

import numpy as np
import pandas
import pytest

from onnxserve import NotFound
from onnxserve.explain import Explainer, ExplainError
from support import explainable, zoo

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # compiling takes longer than all of these tests

RNG = np.random.default_rng(5)
COEFFICIENTS = RNG.normal(size=(8, 3))
MANY = RNG.normal(size=(40, 1))
LARGE = np.array([[1e-3], [-2e-3]])
WORTH = np.array([0, 1, -2, 0.5, 4])
PATCH = {"rows": (8, 16), "columns": (16, 24)}

MODELS = {
    "linear": explainable.linear(COEFFICIENTS, bias=2),
    "many": explainable.linear(MANY, metadata={"feature_names": str([f"f{i}" for i in range(40)]).replace("'", '"')}),
    "large": explainable.linear(LARGE, dtype=explainable.DOUBLE),
    "columns": explainable.columns(),
    "nchw": explainable.patch(shape=["batch", 3, 32, 32], axes=[2, 3], **PATCH),
    "nhwc": explainable.patch(shape=["batch", 32, 32, 3], axes=[1, 2], **PATCH),
    "nhw": explainable.patch(shape=["batch", 32, 32], axes=[1, 2], **PATCH),
    "word": explainable.word(["batch"]),
    "word_column": explainable.word(["batch", 1]),
    "bag": explainable.bag(WORTH),
    "logarithm": explainable.logarithm(),
    "one_row": zoo.one_row(),
    "two_by_two": zoo.two_by_two(),
    "lstm": zoo.lstm(),
}
CONFIGS = {
    "linear": "labels: {scores: [red, green, blue]}\nbatching: {max_rows: 16}",
    "one_row": "labels: {y: [a, b]}",
}

ROW = RNG.normal(size=8).astype(np.float32) * 3
BACKGROUND = RNG.normal(size=(20, 8)).astype(np.float32)
TEXT = "It's an excellent film; well-made, not excellently so."


@pytest.mark.parametrize("label", [0, 1, 2])
def test_shap_of_a_linear_model_is_coefficient_times_distance_from_the_mean(server, label):
    explanation = Explainer(server.client, "linear", label=label).table(ROW, BACKGROUND)
    expected = COEFFICIENTS[:, label] * (ROW - BACKGROUND.mean(axis=0))
    assert explanation.values.dtype == np.float64
    np.testing.assert_allclose(explanation.values, expected, atol=1e-5)
    np.testing.assert_allclose(explanation.base, BACKGROUND.mean(axis=0) @ COEFFICIENTS[:, label] + 2, atol=1e-5)
    assert explanation.base + explanation.values.sum() == pytest.approx(explanation.prediction, abs=1e-5)


def test_shap_of_many_features_and_rows_of_background_is_exact_too(server):
    background = RNG.normal(size=(500, 40)).astype(np.float32)
    explanation = Explainer(server.client, "many").table(background[0], background)
    expected = MANY[:, 0] * (background[0] - background.mean(axis=0))
    np.testing.assert_allclose(explanation.values, expected, atol=1e-5)
    assert explanation.background_rows == 500
    assert explanation.names[39] == "f39"


def test_values_that_are_close_are_still_distinguished(server):
    background = 1.7e9 + RNG.normal(size=(9, 2)) * 1000
    explanation = Explainer(server.client, "large").table(background[0], background)
    np.testing.assert_allclose(
        explanation.values, LARGE[:, 0] * (background[0] - background.mean(axis=0)), rtol=1e-6, atol=1e-6
    )


def test_a_row_like_its_background_has_nothing_to_explain(server):
    explanation = Explainer(server.client, "linear").table(ROW, np.stack([ROW, ROW]))
    assert explanation.values.tolist() == [0] * 8
    assert explanation.base == pytest.approx(explanation.prediction)


def test_lime_of_a_linear_model_has_its_signs(server):
    far = np.where(COEFFICIENTS[:, 1] > 0, 3, -3).astype(np.float32) * [1, 1, 1, 1, -1, -1, -1, -1]
    explanation = Explainer(server.client, "linear", label="green", method="lime").table(far, BACKGROUND)
    assert np.sign(explanation.values).tolist() == [1, 1, 1, 1, -1, -1, -1, -1]
    assert 0 < explanation.fit <= 1
    assert all(name in condition for name, condition in zip(explanation.names, explanation.conditions, strict=True))


def test_a_model_of_columns_is_explained_by_their_names(server):
    background = pandas.DataFrame({"age": [1.0, 2, 3, 6], "colour": ["red", "blue", "blue", "green"]})
    row = pandas.DataFrame({"age": [10.0], "colour": ["red"]})
    explanation = Explainer(server.client, "columns").table(row, background)
    assert explanation.conditions == ("age = 10", "colour = red")
    np.testing.assert_allclose(explanation.values, [2 * (10 - 3), 5 * (1 - 0.25)], atol=1e-5)
    lime = Explainer(server.client, "columns", method="lime").table({"age": 10, "colour": "red"}, background)
    assert lime.conditions == ("age > 3.75", "colour = red")
    assert all(lime.values > 0)


def test_an_input_without_background_stays_as_it_is(server):
    explanation = Explainer(server.client, "columns").table({"age": 10, "colour": "red"}, {"age": [[4.0], [6.0]]})
    assert explanation.names == ("age",)
    np.testing.assert_allclose([explanation.base, *explanation.values], [15, 10], atol=1e-5)


def test_the_columns_of_a_data_frame_are_names(server):
    names = list("abcdefgh")
    background = pandas.DataFrame(BACKGROUND, columns=names)
    explanation = Explainer(server.client, "linear", rows=500).table(background.iloc[:1], background)
    assert explanation.names == tuple(names)


@pytest.mark.parametrize("method", ["shap", "lime"])
@pytest.mark.parametrize(("model", "shape"), [("nchw", (3, 32, 32)), ("nhwc", (32, 32, 3)), ("nhw", (32, 32))])
def test_the_patch_of_an_image_that_matters_has_the_contribution(server, method, model, shape):
    image = np.random.default_rng(0).uniform(0, 0.5, shape).astype(np.float32)
    part = np.s_[..., 8:16, 16:24] if model != "nhwc" else np.s_[8:16, 16:24, :]
    image[part] = 1
    explanation = Explainer(server.client, model, method=method).image(image, mask=0)
    assert explanation.values.shape == (32, 32)
    assert explanation.values[8:16, 16:24].sum() == pytest.approx(1, abs=1e-5 if method == "shap" else 0.1)
    assert np.abs(explanation.values).sum() < 1.1
    top, bottom, left, right = map(int, re.findall(r"\d+", explanation.top(1)[0][0].rpartition("rows")[2]))
    assert 8 <= top < bottom < 16 <= left < right < 24


def test_lime_names_the_regions_of_an_image_that_its_picture_shows(server):
    image = np.zeros((32, 32, 3), np.float32)
    image[np.add.outer(range(32), range(32)) < 30] = 1  # a triangle, which no set of tiles is
    explanation = Explainer(server.client, "nhwc", method="lime").image(image, mask=0)
    sums = np.bincount(explanation.regions.ravel(), explanation.values.ravel())
    assert [value for _, value in explanation.top(3)] == pytest.approx(sorted(sums, key=abs)[:-4:-1])
    for region in range(len(sums)):
        assert np.ptp(explanation.values[explanation.regions == region]) == 0
    assert any(name.split()[1] == "pixels" for name, _ in explanation.top(len(sums)))


@pytest.mark.parametrize("mask", [None, 0.25, [0.25, 0.5, 0.75], np.full((3, 32, 32), 0.5)])
def test_hidden_pixels_show_the_mask(server, mask):
    image = np.random.default_rng(0).uniform(size=(3, 32, 32)).astype(np.float32)
    explanation = Explainer(server.client, "nchw", rows=100).image(image, mask=mask)
    expected = image.mean() if mask is None else np.mean(mask)
    assert explanation.base == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["shap", "lime"])
@pytest.mark.parametrize("model", ["word", "word_column"])
def test_the_word_that_matters_has_the_contribution(server, method, model):
    explanation = Explainer(server.client, model, method=method).text(TEXT)
    assert explanation.names == ("It's", "an", "excellent", "film", "well-made", "not", "excellently", "so")
    word, value = explanation.top(1)[0]
    assert (word, value) == ("excellent", pytest.approx(1, abs=0.05))
    assert np.abs(explanation.values).sum() == pytest.approx(value, abs=0.05)


def test_a_text_of_one_word_is_explained(server):
    assert Explainer(server.client, "word").text("excellent").values == [1]
    assert Explainer(server.client, "word", method="lime").text("excellent").values > 0


def test_token_ids_are_explained_beside_an_input_that_stays(server):
    inputs = {"ids": np.array([1, 2, 4, 4]), "weight": np.array([1, 1, 1, 0], np.float32)}
    explanation = Explainer(server.client, "bag").tokens(inputs, mask=3)
    np.testing.assert_allclose(explanation.values, [0.5, -2.5, 3.5, 0], atol=1e-5)
    assert explanation.names == ("0: 1", "1: 2", "2: 4", "3: 4")


def test_rows_ride_in_batches_as_large_as_the_model_takes(server):
    explanation = Explainer(server.client, "linear").table(ROW, BACKGROUND)
    assert explanation.batch_rows == 16
    assert explanation.rows == 1 + 2**8 * 20
    assert explanation.requests == 1 + 2**8 * 20 / 16


def test_a_model_that_is_not_batched_gets_its_rows_one_by_one(server):
    explanation = Explainer(server.client, "one_row", label="a").table([1, 2], [[0, 0], [3, 3]])
    np.testing.assert_allclose(explanation.values, [1 - 1.5, 0], atol=1e-6)
    assert explanation.requests == explanation.rows


def test_no_more_rows_are_sent_than_asked_for(server):
    background = RNG.normal(size=(50, 40)).astype(np.float32)
    explanation = Explainer(server.client, "many", rows=900).table(background[0] + 1, background)
    assert explanation.rows <= 901
    assert explanation.background_rows == 900 // 81


def test_progress_ends_where_the_rows_do(server):
    calls = []
    explanation = Explainer(server.client, "linear", progress=lambda *numbers: calls.append(numbers)).table(
        ROW, BACKGROUND
    )
    assert calls == sorted(calls)
    assert calls[-1] == (explanation.rows, explanation.rows)


@pytest.mark.parametrize("method", ["shap", "lime"])
def test_the_same_call_gives_the_same_values_and_leaves_the_callers_random_numbers_alone(server, method):
    def values():
        background = np.linspace(-1, 1, 30 * 40).reshape(30, 40)[:, ::-1].astype(np.float32)
        np.random.seed(len(found))
        explained = Explainer(server.client, "many", method=method, rows=1000).table(background[3] * 2, background)
        image = np.random.default_rng(0).uniform(size=(3, 32, 32)).astype(np.float32)
        shown = Explainer(server.client, "nchw", method=method, rows=200).image(image)
        left = np.random.random()
        np.random.seed(len(found))
        assert left == np.random.random()
        return [*explained.values, *shown.values.ravel()]

    found = []
    found.append(values())
    found.append(values())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("model", "settings", "explain", "says"),
    [
        ("linear", {"method": "tea"}, lambda e: e.table(ROW, BACKGROUND), "unknown method 'tea'"),
        (
            "linear",
            {"output": "y"},
            lambda e: e.table(ROW, BACKGROUND),
            "unknown output 'y'; the model's outputs are scores (float32)",
        ),
        (
            "linear",
            {"label": "pink"},
            lambda e: e.table(ROW, BACKGROUND),
            "unknown class 'pink'; output 'scores' has 3 classes, which are red, ",
        ),
        ("linear", {"label": 3}, lambda e: e.table(ROW, BACKGROUND), "unknown class 3"),
        ("linear", {}, lambda e: e.table(ROW[:7], BACKGROUND), "input 'x' has the shape [batch, 8], not [1, 7]"),
        ("linear", {}, lambda e: e.table(BACKGROUND, BACKGROUND), "has 20 rows; one row is explained at a time"),
        ("linear", {}, lambda e: e.table(ROW, ROW), "input 'x' has the shape [batch, 8], not [8]"),
        ("linear", {}, lambda e: e.table(ROW, BACKGROUND[:0]), "the background has no rows"),
        ("linear", {}, lambda e: e.table(["a"] * 8, BACKGROUND), "input 'x' is float32, not <U1"),
        ("linear", {}, lambda e: e.table({"z": ROW}, BACKGROUND), "unknown input 'z'; the model's inputs are x"),
        (
            "linear",
            {},
            lambda e: e.table(ROW, BACKGROUND, names=["a"]),
            "expected 8 names, one for each feature, not 1",
        ),
        (
            "linear",
            {"rows": 10},
            lambda e: e.table(ROW, BACKGROUND),
            "rows must be at least 17 for 8 features that vary, not 10",
        ),
        ("linear", {"method": "lime"}, lambda e: e.table(ROW * np.nan, BACKGROUND), "LIME does not accept missing"),
        ("linear", {}, lambda e: e.image(ROW), "the model has no input of images"),
        ("columns", {}, lambda e: e.table(ROW, BACKGROUND), "the model has the inputs age, colour; give an array"),
        ("columns", {}, lambda e: e.table({"age": 1}, {}), "input 'colour' is missing; give all of age, colour"),
        ("columns", {}, lambda e: e.table({"age": 1, "colour": "red"}, {}), "the background has none of the model's"),
        (
            "columns",
            {},
            lambda e: e.table({"age": 1, "colour": "red"}, {"age": [1, 2], "colour": ["red"]}),
            "age has 2, colour has 1",
        ),
        (
            "two_by_two",
            {"output": "q"},
            lambda e: e.table({"a": [1, 2], "b": [1, 2, 0.5]}, {}),
            "a value is out of range for",
        ),
        ("nchw", {}, lambda e: e.image(np.zeros((3, 32, 32)), layout="NHW"), "which is not NHW"),
        ("nchw", {}, lambda e: e.image(np.zeros((3, 32, 32)), mask=[1, 2]), "the mask has the shape [2]"),
        ("nchw", {"rows": 9}, lambda e: e.image(np.zeros((3, 32, 32))), "rows must be at least 10 here, not 9"),
        ("nchw", {}, lambda e: e.image(np.zeros((3, 32, 32)), vary="x"), "'x' is not an input of images of the model"),
        ("word", {}, lambda e: e.text("?!"), "no word in '?!'"),
        ("bag", {}, lambda e: e.tokens({"ids": [1, 2], "weight": [1, 1]}, mask=2**63), "out of range for int64"),
        (
            "bag",
            {},
            lambda e: e.tokens({"ids": [1, 2], "weight": [1, 1]}, mask=0, names=["a"]),
            "expected 2 names, one for each position, not 1",
        ),
        ("logarithm", {}, lambda e: e.table([1, 1], [[1, 1], [-1, 1]]), "it is not finite for 1 of 3 changed rows"),
        ("lstm", {}, lambda e: e.table(np.ones((3, 2)), np.ones((2, 3, 2))), "not one number for each row"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_the_reason(server, model, settings, explain, says):
    with pytest.raises(ExplainError) as refused:
        explain(Explainer(server.client, model, **settings))
    assert says in str(refused.value)


def test_an_unknown_model_is_the_servers_own_error(server):
    with pytest.raises(NotFound):
        Explainer(server.client, "nope")
