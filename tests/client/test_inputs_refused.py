"""Inputs that cannot be sent: the error names the input, the element and the cure."""

import datetime

import numpy as np
import pandas as pd
import pytest

import onnxserve

gap = np.ones((2, 3), object)
gap[1, 2] = None

REFUSED = {
    "None among numbers": (gap, r"element \[1, 2\] is None.*no gaps"),
    "None among strings": (np.array(["a", None]), r"element \[1\] is None"),
    "numbers as objects": (np.array([1, 2.5], object), r"str or bytes, not float, int.*np\.asarray\(x, dtype"),
    "complex": (np.ones(2, np.complex64), "complex64"),
    "dates": (np.array(["2026-11-30"], "datetime64[D]"), "datetime64"),
    "date objects": (np.array([datetime.date(2026, 11, 30)]), r"element \[0\] is a date"),
    "a lone surrogate": (np.array(["a", "\ud800"]), r"element \[1\] is a str with a lone surrogate"),
    "a ragged list": ([[1, 2], [3]], "numpy array, not list"),
    "a ragged array": (np.array([[1, 2], [3]], object), r"element \[0\] is a list"),
    "a masked array": (np.ma.masked_array([1.0, 2.0], [False, True]), r"masked.*filled\(\)"),
    "records": (np.zeros(2, [("a", "f4")]), "no type for dtype"),
    "a data frame": (pd.DataFrame({"a": [1]}), "numpy array, not DataFrame"),
    "its column": (pd.Series([1.0, None]), "numpy array, not Series"),
}


@pytest.mark.parametrize(("value", "fault"), REFUSED.values(), ids=REFUSED)
def test_an_input_that_cannot_be_sent_is_named_with_its_element(value, fault, either):
    inputs = {f"x{number}": np.ones(2, np.float32) for number in range(600)} | {"x41": value}
    client = either.connect("localhost:1")
    with pytest.raises(TypeError, match=rf"^inputs\['x41'\].*{fault}"):
        client.predict("m", inputs)


def test_a_masked_array_without_masked_elements_is_sent(serve_functions):
    server = serve_functions({"m": lambda inputs: {"y": inputs["x"]}})
    with onnxserve.Client(server.target) as client:
        assert client.predict("m", {"x": np.ma.masked_array([1.0, 2.0])})["y"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"max_message_bytes": 0}, "max_message_bytes must be"),
        ({"max_message_bytes": "64"}, "max_message_bytes must be"),
        ({"keepalive": 0}, "keepalive must be"),
        ({"keepalive": float("nan")}, "keepalive must be"),
        ({"load_balancing": None}, "load_balancing must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        onnxserve.Client("localhost:1", **options)


@pytest.mark.parametrize("timeout", ["1", [1], 1j])
def test_a_timeout_that_is_no_number_is_refused(timeout, either):
    client = either.connect("localhost:1")
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        client.predict("m", {}, timeout=timeout)
