"""Rows along another axis than the first, and inputs that all rows of a run share."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxserve import InvalidArgument, Prediction
from onnxserve.errors import from_rpc_error
from onnxserve.tensor import NAMES
from support import zoo
from support.arrays import random_array, same_bits

CALLERS = 32
TYPES = sorted(NAMES)
SCALES = [0.0, -0.0, 0.5, 2.0]

LAYERED = "{batch_axis: {state: 1, stateN: 1}, shared: [scale], "
MODELS = {
    **{f"columns_{NAMES[number]}": zoo.columns(number) for number in TYPES},
    **dict.fromkeys(("layered", "small", "patient", "unsplit", "undeclared", "off"), zoo.layered()),
    "of_metadata": zoo.layered({"batch_axis": '{"state": 1, "stateN": 1}', "shared": '["scale"]', "author": "us"}),
    "suffixed": zoo.suffixed(),
    "lookup": zoo.lookup(),
    "weighted": zoo.weighted(),
    "mixing": zoo.mixing(1),
}
WAITING = "batching: {max_delay_us: 3000}"  # a burst from one machine is spread over about as long
CONFIGS = {
    **dict.fromkeys(
        (f"columns_{NAMES[number]}" for number in TYPES), "{batch_axis: {x: 1, y: 1}, batching: {max_rows: 8}}"
    ),
    "layered": f"{LAYERED} {WAITING}}}",
    "small": f"{LAYERED} batching: {{max_rows: 4}}}}",
    "patient": f"{LAYERED} batching: {{max_rows: 4, max_delay_us: 10000000}}}}",
    "unsplit": f"{LAYERED} batching: {{max_rows: 4, oversize: refuse}}}}",
    "off": f"{LAYERED} batching: {{enabled: false}}}}",
    "suffixed": "{shared: [suffix], batching: {max_rows: 4, max_delay_us: 10000000}}",
    "lookup": f"{{batch_axis: {{id: 1, y: 1}}, shared: [table], {WAITING}}}",
    "weighted": "shared: [weight]",
    "mixing": "batch_axis: {x: 1, y: 1}",
}
SETTINGS = {"workers": CALLERS + 8}

several = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**32 - 1)
rows_and_scales = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(SCALES)), min_size=CALLERS, max_size=CALLERS)


def answers(calls):
    return [Prediction(call.result(timeout=30)) for call in calls]


def step(rows, scale, rng):
    """One caller's inputs of zoo.layered()."""
    return {
        "x": rng.standard_normal((rows, 3)).astype("f4"),
        "state": rng.standard_normal((2, rows, 3)).astype("f4"),
        "scale": np.array(scale, np.float32),
    }


@pytest.fixture(scope="module")
def alone():
    """Run zoo.layered() for one caller, without a server."""
    session = onnxruntime.InferenceSession(zoo.layered().SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(("y", "stateN"), session.run(None, inputs), strict=True))


def same(prediction, right):
    return prediction.keys() == right.keys() and all(same_bits(prediction[name], right[name]) for name in right)


@settings(several, max_examples=10)
@given(rows_and_scales, seeds)
def test_an_answer_is_to_the_bit_that_of_a_run_of_its_own(server, alone, callers, seed):
    rng = np.random.default_rng(seed)
    sent = [step(rows, scale, rng) for rows, scale in callers]
    got = answers([server.send("layered", **inputs) for inputs in sent])
    assert all(same(prediction, alone(inputs)) for inputs, prediction in zip(sent, got, strict=True))
    assert max(prediction.receipt.batch_requests for prediction in got) > 1


@several
@given(rows_and_scales.map(lambda callers: [(rows * 3, scale) for rows, scale in callers]), seeds)
def test_rows_above_max_rows_are_split_and_joined_along_their_axes(server, alone, callers, seed):
    rng = np.random.default_rng(seed)
    sent = [step(rows, scale, rng) for rows, scale in callers]
    got = answers([server.send("small", **inputs) for inputs in sent])
    assert all(same(prediction, alone(inputs)) for inputs, prediction in zip(sent, got, strict=True))
    assert max(prediction.receipt.batch_rows for prediction in got) <= 4


@pytest.mark.parametrize("number", TYPES, ids=NAMES.get)
@several
@given(st.lists(st.integers(0, 13), min_size=24, max_size=24), seeds)
def test_rows_of_every_type_come_back_split_or_not(server, number, rows, seed):
    rng = np.random.default_rng(seed)
    sent = [random_array(number, (2, count), rng) for count in rows]
    got = answers([server.send(f"columns_{NAMES[number]}", x=array) for array in sent])
    assert all(same_bits(array, prediction["y"]) for array, prediction in zip(sent, got, strict=True))


def test_requests_share_a_run_only_where_they_have_the_same_in_shared_inputs(server, alone):
    rng = np.random.default_rng(0)
    sent = [step(1, SCALES[i % 4], rng) for i in range(16)]  # max_rows is 4, and nobody runs before a batch is full
    got = answers([server.send("patient", **inputs) for inputs in sent])
    assert all(same(prediction, alone(inputs)) for inputs, prediction in zip(sent, got, strict=True))
    assert {(prediction.receipt.batch_rows, prediction.receipt.batch_requests) for prediction in got} == {(4, 4)}


def test_strings_are_shared_by_their_text(server):
    words = ["", "été", "a word"]
    sent = [(np.array([[f"{i} ", f"{i}: "]], object), words[i % 3]) for i in range(12)]
    got = answers([server.send("suffixed", x=x, suffix=np.array(suffix, object)) for x, suffix in sent])
    for (x, suffix), prediction in zip(sent, got, strict=True):
        assert prediction["y"].tolist() == [[word + suffix for word in x[0]]]
    assert {prediction.receipt.batch_requests for prediction in got} == {4}


@several
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(5, 10)), min_size=24, max_size=24))
def test_a_request_that_the_model_fails_on_fails_alone(server, callers):
    calls = [
        server.send("lookup", id=np.array([[number]]), table=np.arange(size, dtype="f4")) for number, size in callers
    ]
    for (number, size), call in zip(callers, calls, strict=True):
        if number >= size:
            assert isinstance(from_rpc_error(call.exception(timeout=30)), InvalidArgument)
        else:
            assert Prediction(call.result(timeout=30))["y"].tolist() == [[number]]


# Requests that do not fit


@pytest.mark.parametrize(
    ("model", "inputs", "fault"),
    [
        (
            "layered",
            {"x": (2, 3), "state": (2, 3, 3), "scale": ()},
            ("inputs[1].shape", "all inputs must have the same number of rows: 2 in 'x', 3 in 'state'"),
        ),
        (
            "layered",
            {"scale": (), "state": (2, 2, 3), "x": (1, 3)},
            ("inputs[1].shape", "all inputs must have the same number of rows: 1 in 'x', 2 in 'state'"),
        ),
        (
            "layered",
            {"x": (1, 3), "state": (2, 1, 3), "scale": (1,)},
            ("inputs[2].shape", "input 'scale' has the shape [], not [1]"),
        ),
        (
            "weighted",
            {"x": (4, 5), "weight": (4,)},
            ("inputs[1].shape", "axis 'k' must have the same size everywhere: 5 in 'x', 4 in 'weight'"),
        ),
        (
            "unsplit",
            {"scale": (), "state": (2, 5, 3), "x": (5, 3)},
            (
                "inputs[2].shape",
                "5 rows exceed max_rows (4), and batching.oversize of the model is refuse: send less at a time, or set "
                "it to split",
            ),
        ),
    ],
    ids=["rows", "rows in another order", "shape of a shared input", "an axis of a shared input", "too many rows"],
)
def test_what_does_not_fit_is_told_with_its_field(server, model, inputs, fault):
    with pytest.raises(InvalidArgument) as raised:
        server.client.predict(model, {name: np.zeros(shape, np.float32) for name, shape in inputs.items()})
    assert [(violation.field, violation.description) for violation in raised.value.violations] == [fault]


# What callers and operators see of them


@pytest.mark.parametrize("model", ["layered", "of_metadata"])
def test_the_axes_are_told_with_the_model(server, model):
    info = server.client.model(model)
    assert info.batching.enabled
    assert {spec.name: spec.batch_axis for spec in info.inputs} == {"x": 0, "state": 1, "scale": None}
    assert {spec.name: spec.batch_axis for spec in info.outputs} == {"y": 0, "stateN": 1}
    assert info.metadata == ({} if model == "layered" else {"author": "us"})


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            "undeclared",
            "the first axis of input state has the fixed size 2 (in its configuration set `batch_axis: {state: 1}`",
        ),
        ("mixing", "a row of its output y depends on the other rows of its batch"),
        ("off", "model.yaml says so"),
    ],
)
def test_why_a_model_is_not_batched_is_told(server, model, reason):
    batching = server.client.model(model).batching
    assert (batching.enabled, batching.reason[: len(reason)]) == (False, reason)


@pytest.mark.parametrize("model", ["undeclared", "off"])
def test_a_model_that_is_not_batched_serves_callers_one_by_one(server, alone, model):
    sent = [step(rows, 0.5, np.random.default_rng(rows)) for rows in range(1, 5)]
    got = answers([server.send(model, **inputs) for inputs in sent])
    assert all(same(prediction, alone(inputs)) for inputs, prediction in zip(sent, got, strict=True))
    assert {prediction.receipt.batch_requests for prediction in got} == {1}
