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


ARGUMENTS = {
    "no outputs": ({"outputs": []}, ValueError, "outputs is empty; leave it out for all outputs"),
    "an empty set": ({"outputs": set()}, ValueError, "outputs is empty"),
    "no element": ({"outputs": np.array([], str)}, ValueError, "outputs is empty"),
    "None among outputs": ({"outputs": ["p", None]}, TypeError, r"outputs\[1\] must be a str.*None"),
    "bytes as outputs": ({"outputs": [b"p"]}, TypeError, r"outputs\[0\] must be a str.*b'p'"),
    "a number as outputs": ({"outputs": 3}, TypeError, "outputs must be a sequence of names.*int"),
    "an iterator of outputs": ({"outputs": map(str, "p")}, TypeError, "outputs must be a sequence of names.*map"),
    "a number as model": ({"model": 3}, TypeError, "model must be a str.*not 3"),
    "no model": ({"model": None}, TypeError, "model must be a str.*None"),
    "a number as version": ({"version": 3}, TypeError, "version must be a str, such as '3'"),
    "a str as priority": ({"priority": "high"}, TypeError, "priority must be an int from -10 to 10, not 'high'"),
    "a float as priority": ({"priority": 1.0}, TypeError, "priority must be an int"),
    "a wide priority": ({"priority": 1 << 40}, ValueError, "priority must be an int"),
}
ENTRIES = {
    "predict": lambda client, inputs, options: client.predict(inputs=inputs, **options),
    "stream": lambda client, inputs, options: list(client.stream(inputs=[inputs], **options)),
    "sequence": lambda client, inputs, options: client.sequence(**options).step(inputs),
    "generate": lambda client, inputs, options: list(client.generate(inputs=inputs, max_steps=2, **options)),
}


@pytest.mark.parametrize("call", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_an_argument_that_cannot_be_meant_is_named_before_anything_is_sent(arguments, call, either, serve_functions):
    options, kind, fault = arguments
    asked = []
    server = serve_functions({"m": lambda inputs: asked.append(inputs) or {"p": inputs["x"]}})
    with pytest.raises(kind, match=f"^{fault}"):
        call(either.connect(server.target), {"x": np.ones((1, 2), np.float32)}, {"model": "m"} | options)
    assert not asked


def test_the_description_of_a_model_is_asked_for_by_name(either):
    client = either.connect("localhost:1")
    with pytest.raises(TypeError, match=r"^model must be a str.*not 3"):
        client.model(3)
    with pytest.raises(TypeError, match=r"^version must be a str"):
        client.model("m", 3)


def test_a_request_is_named_by_a_str(either):
    with pytest.raises(TypeError, match=r"^request_id must be a str, not 3"):
        either.connect("localhost:1").predict("m", {}, request_id=3)


def test_outputs_may_be_any_collection_of_names(either, serve_functions):
    server = serve_functions({"m": lambda inputs: {"p": inputs["x"], "q": inputs["x"]}})
    for outputs in ({"q"}, np.array(["q"]), {"q": 1}, ("q",)):
        assert [*either.connect(server.target).predict("m", {"x": np.ones((1, 2), np.float32)}, outputs=outputs)] == [
            "q"
        ]


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
