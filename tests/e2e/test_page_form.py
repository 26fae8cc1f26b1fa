"""The page's form in a browser: pictures and JSON go in, answers and errors come out."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from support import zoo
from support.shown import digits, pixels
from support.waiting import until

pytest.importorskip("selenium", reason="selenium is not installed")
from support.browsing import number, write_png

ROOT = Path(__file__).parent.parent.parent
MODELS = {
    "digits": digits(),
    "double": zoo.double(),
    "pair": zoo.two_by_two(),
    "int64": zoo.identity(TensorProto.INT64),
    "text": zoo.identity(TensorProto.STRING),
    "nhwc": pixels("nhwc", "batch 16 24 3", TensorProto.UINT8),
    "gray": pixels("gray", "batch 1 height width", TensorProto.FLOAT),
}


def digit_png(tmp_path, i, inverted=False):
    """Write a digit of the test set as a picture; return its path, its label and what the model is to see."""
    digits = np.load(ROOT / "examples/data/digits_test.npz")
    image = np.round(255 * digits["image"][i]).astype(np.uint8)
    drawn = 255 - image if inverted else image
    return write_png(tmp_path / f"digit{i}.png", drawn.transpose(1, 2, 0)), str(digits["label"][i]), image[None] / 255


@pytest.mark.parametrize(("i", "inverted"), [(0, False), (7, False), (100, True)])
def test_the_picture_of_a_digit_is_read(opened, http_server, tmp_path, i, inverted):
    path, label, seen = digit_png(tmp_path, i, inverted)
    opened.model("digits")
    opened.picture(path)
    if inverted:
        opened.find("#form input[type=checkbox]").click()
    opened.send()
    assert opened.text(".bars dt") == label
    assert len(opened.all(".bars dt")) == 10
    wanted = http_server.client.predict("digits", {"image": seen.astype(np.float32)})["probabilities"].max()
    assert number(opened.text(".bars dd.first")) == pytest.approx(wanted, abs=1e-4)
    assert "ran on CPU" in opened.text("#answer-body")


def test_a_picture_can_be_dropped_and_left_for_json(opened, tmp_path):
    path, label, _ = digit_png(tmp_path, 3)
    opened.model("digits")
    opened.run(
        """
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(arguments[0])], 'digit.png', { type: 'image/png' }));
        const dropped = new DragEvent('drop', { dataTransfer: transfer, cancelable: true });
        document.querySelector('.drop').dispatchEvent(dropped);""",
        list(path.read_bytes()),
    )
    assert not opened.find("#form textarea").is_displayed()
    opened.send()
    assert opened.text(".bars dt") == label
    opened.find(".drop .plain").click()
    assert opened.find("#form textarea").is_displayed()
    assert opened.send()  # zeros


def test_a_file_that_is_not_a_picture_is_named_at_its_field(opened, tmp_path):
    path = tmp_path / "not-a-picture.png"
    path.write_text("hello")
    opened.model("digits")
    opened.picture(path)
    until(lambda: "not-a-picture.png: the browser cannot read it" in opened.text("#form-inputs .error"))
    opened.find("#send").click()
    until(lambda: opened.run("return document.activeElement.type") == "file")


@pytest.mark.parametrize("channels_first", [True, False])
def test_the_channels_of_a_picture_lie_where_the_model_wants_them(opened, tmp_path, channels_first):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    opened.model("nhwc")
    opened.picture(write_png(tmp_path / "picture.png", image))
    values = opened.module(
        "image.js",
        """
        const file = document.querySelector('#form input[type=file]').files[0];
        const spec = { data_type: 'uint8', shape: a[0] };
        const tensor = m.tensorOf(file, spec, m.RANGES[1], false, document.createElement('canvas'));
        return tensor.then(({ shape, values }) => [shape, [...values]]);""",
        ["batch", 3, 5, 7] if channels_first else ["batch", "height", "width", 3],
    )
    wanted = image.transpose(2, 0, 1) if channels_first else image
    assert values == [[1, *wanted.shape], wanted.ravel().tolist()]


@pytest.mark.parametrize("model", ["nhwc", "gray"])
def test_pictures_keep_their_colours_their_size_and_their_place(opened, http_server, tmp_path, model):
    height, width = 16, 24
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    if model == "gray":
        image[...] = image[..., :1]
        image[0, 0], image[0, 1] = 0, 255  # so that what is drawn needs no stretching
    opened.model(model)
    opened.picture(write_png(tmp_path / "picture.png", image))
    opened.send()
    drawn = opened.run("""
        const canvas = document.querySelector('canvas.drawn');
        const { height, width, data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return [height, width, [...data]];""")
    assert drawn[:2] == [height, width]
    np.testing.assert_allclose(np.array(drawn[2]).reshape(height, width, 4)[..., :3], image, atol=1)


@pytest.mark.parametrize(
    ("name", "halves"),
    [
        ("0 to 1", (0, 1)),
        ("0 to 255", (0, 255)),
        ("\N{MINUS SIGN}1 to 1", (-1, 1)),
        ("ImageNet mean and deviation", (-2.1179, 2.64)),
    ],
)
def test_values_are_in_the_range_that_is_chosen(opened, tmp_path, name, halves):
    image = np.zeros((9, 9, 3), np.uint8)
    image[:, 5:] = 255
    opened.model("digits")
    opened.picture(write_png(tmp_path / "halves.png", image))
    sent = opened.module(
        "image.js",
        """
        const spec = { data_type: 'float32', shape: ['batch', 3, 9, 9] };
        const range = m.RANGES.find(({ name }) => name === a[0]);
        const file = document.querySelector('#form input[type=file]').files[0];
        const read = (inverted) => m.tensorOf(file, spec, range, inverted, document.createElement('canvas'));
        const both = Promise.all([read(false), read(true)]);
        return both.then((tensors) => tensors.map(({ shape, values }) => [shape, ...values]));""",
        name,
    )
    assert [shape for shape, *_ in sent] == [[1, 3, 9, 9]] * 2
    plain, inverted = (np.array(values).reshape(3, 9, 9) for _, *values in sent)
    assert (plain.min(), plain.max()) == pytest.approx(halves, abs=1e-3)
    assert plain[0, 0, 0] < plain[0, 0, 8]
    np.testing.assert_allclose(plain[:, :, :4], inverted[:, :, 5:])


def test_json_is_sent_as_it_was_typed_and_zeros_are_there_to_begin_with(opened):
    opened.model("double")
    assert opened.find("#form textarea").get_property("value") == "[[0, 0, 0]]"
    opened.type("[[1, 2, 3], [4, 5, 0.25]]")
    opened.send()
    assert opened.text("#answer-body pre").split() == ["2", "4", "6", "8", "10", "0.5"]
    opened.model("int64")
    opened.type("[[9007199254740993, -1]]")
    opened.send()
    assert opened.text("#answer-body pre").split() == ["9007199254740993", "-1"]
    opened.model("text")
    opened.type('[["été", "b"]]')
    opened.send()
    assert opened.text("#answer-body pre").split() == ["été", "b"]


def test_an_empty_field_is_zeros_of_the_right_shape(opened):
    opened.model("pair")
    for area in opened.all("#form textarea"):
        opened.run("arguments[0].value = ''", area)
    opened.send()
    assert [pre.text.split() for pre in opened.all("#answer-body pre")] == [["0", "0"], ["1", "1", "1"]]
    opened.model("text")
    opened.type("")
    assert "text/1" in opened.send()


def test_an_error_stands_at_its_field(opened):
    opened.expected = ["the server responded with a status of 400"]  # the browser's own note of such an answer
    opened.model("pair")
    first, second = opened.all("#form textarea")
    opened.run("arguments[0].value = '[[1, 2]]'; arguments[1].value = '[[1, 2]]'", first, second)
    assert "The request failed." in opened.send()
    assert "INVALID_ARGUMENT (INVALID_REQUEST): inputs.b.shape: input 'b'" in opened.text("#form-error")
    errors = [opened.text(f"[id='{area.get_attribute('aria-describedby')}']") for area in (first, second)]
    assert errors[0] == ""
    assert errors[1].startswith("inputs.b.shape: input 'b' has the shape [batch, 3], not [1, 2]")
    assert [area.get_attribute("aria-invalid") for area in (first, second)] == ["false", "true"]
    assert opened.driver.switch_to.active_element == second
    opened.run("arguments[0].value = '[[1, 2, 3]]'", second)
    opened.send()
    assert opened.text("#form-error") == ""
    assert second.get_attribute("aria-invalid") == "false"


def test_input_that_is_not_json_is_refused_before_it_is_sent(opened):
    opened.model("double")
    opened.type("[[1, 2, 3]")
    opened.find("#send").click()
    until(lambda: opened.text("#form-inputs .error").startswith("not valid JSON: "))
    assert opened.driver.switch_to.active_element == opened.find("#form textarea")


def test_what_is_typed_stays_while_the_page_is_drawn_anew(opened):
    opened.model("double")
    opened.type("[[1, 2, 3]]")
    ups = opened.text("#about")
    until(lambda: opened.text("#about") != ups)
    assert opened.find("#form textarea").get_property("value") == "[[1, 2, 3]]"
    assert opened.find("#form-model").get_property("value") == "double"
