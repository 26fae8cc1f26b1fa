"""What an explanation holds, says and draws; what stands without the extra."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from onnxserve import TensorSpec
from onnxserve.explain import ExplainError, Explanation
from onnxserve.explain._arrays import background_of, instance_of
from onnxserve.explain._image import Picture
from onnxserve.explain._text import Words

TABLE = Explanation(
    kind="table",
    method="shap",
    model="wine",
    version="3",
    output="probabilities",
    index=2,
    label="third $ grower_1",
    prediction=0.75,
    base=0.25,
    values=np.array([0.1, -0.3, 0.7]),
    names=("alcohol", "ash", "日本 $x$"),
    conditions=("alcohol = 13", "ash = 2", "日本 $x$ = 4"),
    fit=None,
    background_rows=20,
    rows=161,
    requests=4,
    batch_rows=64,
    seed=0,
)
IMAGE = dataclasses.replace(
    TABLE,
    kind="image",
    method="lime",
    values=np.arange(12 * 10).reshape(12, 10) / 100,
    names=(),
    conditions=(),
    fit=0.9,
    image=np.random.default_rng(0).uniform(size=(12, 10, 3)),
)
TEXT = dataclasses.replace(TABLE, kind="text", names=("a", "b" * 100, "c\nd"), conditions=(), index=None, label="")


def test_the_strongest_contributions_come_first():
    assert TABLE.top(2) == [("日本 $x$ = 4", 0.7), ("ash = 2", -0.3)]
    assert TEXT.top(1) == [("c\nd", 0.7)]


def test_the_tiles_of_an_image_have_what_their_pixels_have():
    assert sum(value for _, value in IMAGE.top(100)) == pytest.approx(IMAGE.values.sum())
    assert IMAGE.top(1) == [("rows 10 to 11, columns 8 to 9", pytest.approx(1.08 + 1.09 + 1.18 + 1.19))]


@pytest.mark.parametrize("explanation", [TABLE, IMAGE, TEXT], ids=lambda explanation: explanation.kind)
def test_json_has_everything_but_the_image_and_its_regions(explanation):
    read = json.loads(explanation.to_json())
    np.testing.assert_array_equal(np.array(read.pop("values")).reshape(read.pop("shape")), explanation.values)
    fields = {field.name for field in dataclasses.fields(Explanation)} - {"values", "image", "regions"}
    assert read.keys() == fields
    for name, value in read.items():
        found = getattr(explanation, name)
        assert value == (list(found) if isinstance(found, tuple) else found)


@pytest.mark.parametrize("explanation", [TABLE, IMAGE, TEXT], ids=lambda explanation: explanation.kind)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_plot_is_a_png_with_the_contributions_colours(explanation):
    picture = matplotlib.image.imread(io.BytesIO(explanation.plot()))
    assert picture.shape[0] > 200
    assert picture.shape[1] > 500
    red, green, _, _ = np.moveaxis(picture, -1, 0)
    assert (red - green > 0.4).any()
    assert (picture[0, 0] == 1).all()  # light, whatever the caller's own style


def test_hidden_words_leave_what_lies_between():
    words = Words("text", np.array(["  One, two-three!\nFour"], dtype=object), mask="…", word=r"\w+(?:-\w+)*")
    assert words.names == ("One", "two-three", "Four")
    shown = words.inputs(np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=bool))
    assert shown["text"].tolist() == ["  One, two-three!\nFour", "  One, …!\n…", "  …, …!\n…"]


@pytest.mark.parametrize(
    ("layout", "shape"), [(None, (1, 3, 4, 5)), (None, (1, 6, 5, 3)), (None, (1, 4, 5)), ("NHWC", (1, 3, 5, 3))]
)
def test_hidden_pixels_are_hidden_in_all_channels(layout, shape):
    image = np.random.default_rng(0).integers(1, 255, shape).astype(np.uint8)
    picture = Picture("x", image, layout=layout, mask=0, regions=None)
    shown = np.zeros((2, *picture.shape), dtype=bool)
    shown[0] = True
    shown[1, 1, 2] = True
    everything, one = picture.inputs(shown.reshape(2, -1))["x"]
    np.testing.assert_array_equal(everything, image[0])
    assert one.dtype == np.uint8
    expected = np.zeros_like(image[0])
    part = np.s_[:, 1, 2] if shape == (1, 3, 4, 5) else np.s_[1, 2]
    expected[part] = image[0][part]
    np.testing.assert_array_equal(one, expected)


def test_an_image_whose_channels_could_be_either_axis_needs_its_layout():
    with pytest.raises(ExplainError, match="give layout NCHW or NHWC"):
        Picture("x", np.zeros((1, 3, 9, 3), np.float32), layout=None, mask=None, regions=None)


def test_regions_are_many_where_the_image_is_noise():
    noise = np.random.default_rng(0).uniform(size=(1, 3, 40, 40))
    assert Picture("x", noise, layout=None, mask=None, regions=50).regions.max() > 30


@dataclasses.dataclass
class Info:
    """A model as far as arrays are made to fit it."""

    inputs: list[TensorSpec]


def spec(dtype, *shape, axis=0):
    return TensorSpec(name="x", dtype=dtype, shape=shape, labels=(), batch_axis=axis)


@pytest.mark.parametrize(
    ("of", "given", "shape"),
    [
        (spec("float32", "n", 2), [1, 2], (1, 2)),
        (spec("float32", "n", 2), np.array([[1.5, 2]]), (1, 2)),
        (spec("int64", "n", 2), np.array([3.0, 4.0]), (1, 2)),
        (spec("string", "n", 1), "text", (1, 1)),
        (spec("string", "n"), np.array(["text"]), (1,)),
        (spec("bool", "n"), True, (1,)),
        (spec("float32", axis=None), 4, ()),
    ],
)
def test_one_row_is_made_to_fit_its_input(of, given, shape):
    array = instance_of(Info([of]), given)["x"]
    assert array.shape == shape
    assert array.dtype == (object if of.dtype == "string" else of.dtype)
    assert array.ravel().tolist() == np.asarray(given).ravel().tolist()


@pytest.mark.parametrize(
    ("of", "given", "says"),
    [
        (spec("int8", "n", 1), [[1], [300]], "a value is out of range for int8"),
        (spec("int8", "n", 1), [[1], [0.5]], "a value is out of range for int8"),
        (spec("bool", "n", 1), [[1], [0]], "is bool, not int64"),
        (spec("string", "n", 1), np.array([["a"], [None]], dtype=object), "a value is not a str"),
        (spec("bfloat16", "n", 1), [[1.0]], "which cannot be explained"),
        (spec("float32", 2, "n", axis=1), [[1.0], [2.0]], "do not lie along its first axis"),
    ],
)
def test_rows_that_do_not_fit_are_refused(of, given, says):
    with pytest.raises(ExplainError) as refused:
        background_of(Info([of]), given)
    assert says in str(refused.value)


def run(program, **absent):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | absent
    )


def test_what_explains_is_imported_when_it_is_used():
    program = "import sys, onnxserve.explain; print([n for n in ('shap', 'lime', 'matplotlib') if n in sys.modules])"
    assert run(program).stdout == "[]\n"


@pytest.mark.parametrize("package", ["shap", "lime"])
def test_without_the_extra_its_name_is_given(package):
    program = (
        f"import sys; sys.modules['{package}'] = None\nfrom onnxserve.explain._packages import load\nload('{package}')"
    )
    assert "ImportError: explaining needs an extra: pip install 'onnxserve[explain]'" in run(program).stderr


def test_without_the_extra_the_command_names_it():
    program = "import sys; sys.modules['shap'] = None\nfrom onnxserve.__main__ import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program, "explain", "wine", "--input", "x=y.npy"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "onnxserve: explain needs an extra: pip install 'onnxserve[explain]'\n"
