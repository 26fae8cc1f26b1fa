"""Requests put together, and answers taken apart, to the byte."""

import re
import types
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxserve._call import PredictCall
from onnxserve._joining import Key, Spec, join, key_of, split
from onnxserve._models import Batching, ModelInfo, Runtime, TensorSpec
from onnxserve._prediction import Prediction
from onnxserve._wire import predict_request
from onnxserve.tensor import NAMES, NUMBERS, STORAGE, STRING, decode, encode
from onnxserve.v1 import inference_service_pb2, tensor_pb2

ONE = np.ones((1, 3), np.float32)
ROWS = st.lists(st.integers(0, 4), min_size=1, max_size=8)


def spec_of(inputs, outputs=(), max_rows=64, enabled=True, max_bytes=1 << 20):
    batching = Batching(
        enabled=enabled, reason="", max_rows=max_rows, max_delay_us=0, max_queue_rows=999, max_queue_bytes=1 << 30
    )
    runtime = Runtime(requested_providers=(), providers=(), instances=1, threads=1, options={})
    about = {"name": "m", "version": "1", "state": "READY", "metadata": {}, "description": ""}
    return Spec(
        ModelInfo(inputs=tuple(inputs), outputs=tuple(outputs), batching=batching, runtime=runtime, **about), max_bytes
    )


def tensor(name, dtype, *shape, batch_axis=0):
    return TensorSpec(name=name, dtype=dtype, shape=shape, labels=(), batch_axis=batch_axis)


def random_array(number, shape, rng):
    if number == STRING:
        return rng.choice(np.array(["", "a", "été", "x" * 300, "\0"], dtype=object), shape)
    if number == tensor_pb2.DATA_TYPE_BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    data = rng.bytes(int(np.prod(shape)) * STORAGE[number].itemsize)
    return decode(tensor_pb2.Tensor(data_type=number, shape=shape, data=data))


def key(inputs, **options):
    return key_of(PredictCall(model="m", inputs=inputs, **options))


def _shown(case):
    """The case as text, without the addresses that differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(case))


@pytest.mark.parametrize("number", sorted(NAMES), ids=NAMES.get)
@given(rows=ROWS, row=st.lists(st.integers(0, 3), max_size=3), seed=st.integers(0, 2**32 - 1))
def test_a_joined_request_is_that_of_one_caller_with_all_the_rows(number, rows, row, seed):
    rng = np.random.default_rng(seed)
    spec = spec_of([tensor("a", NAMES[number], "n", *row), tensor("b", "int64", "n")])
    requests = [{"a": random_array(number, (count, *row), rng), "b": rng.integers(-99, 99, count)} for count in rows]
    options = {"outputs": ["y"], "version": "2", "priority": -3}
    (common,) = {key(inputs, **options) for inputs in requests}
    parts = [spec.part_of(inputs) for inputs in requests]
    together = {name: np.concatenate([inputs[name] for inputs in requests]) for name in ("a", "b")}
    assert join(common, parts, "id") == predict_request(PredictCall(model="m", inputs=together, **options), "id")


@pytest.mark.parametrize("number", sorted(NAMES), ids=NAMES.get)
@given(rows=ROWS, row=st.lists(st.integers(0, 3), max_size=3), seed=st.integers(0, 2**32 - 1))
def test_an_answer_is_split_into_what_each_call_would_have_got(number, rows, row, seed):
    rng = np.random.default_rng(seed)
    parts = [random_array(number, (count, *row), rng) for count in rows]
    response = inference_service_pb2.PredictResponse(
        model="m",
        version="2",
        request_id="joined",
        outputs=[encode("y", np.concatenate(parts)), encode("z", np.arange(sum(rows)))],
        receipt=inference_service_pb2.Receipt(batch_rows=7),
    )
    got = split(Prediction(response), [(count, str(i)) for i, count in enumerate(rows)])
    first = 0
    for i, (prediction, part) in enumerate(zip(got, parts, strict=True)):
        assert prediction["y"].dtype == part.dtype
        assert prediction["y"].shape == part.shape
        assert prediction["y"].tolist() == part.tolist() or prediction["y"].tobytes() == part.tobytes()
        assert prediction["z"].tolist() == [*range(first, first + rows[i])]
        assert (prediction.model, prediction.version, prediction.request_id) == ("m", "2", str(i))
        assert prediction.receipt.batch_rows == 7
        first += rows[i]


def test_an_output_that_all_rows_share_is_given_whole_to_each_call():
    spec = spec_of([tensor("x", "float32", "n")], [tensor("y", "int64", "n"), tensor("z", "int64", 2, batch_axis=None)])
    assert (spec.batches, spec.shared) == (True, {"z"})
    outputs = [encode("y", np.arange(2)), encode("z", np.array([7, 8]))]
    got = split(Prediction(inference_service_pb2.PredictResponse(outputs=outputs)), [(1, "a"), (1, "b")], spec.shared)
    assert [(each["y"].tolist(), each["z"].tolist()) for each in got] == [([0], [7, 8]), ([1], [7, 8])]


def test_a_transposed_array_is_sent_row_by_row():
    x = np.arange(6, dtype=np.float32).reshape(2, 3).T
    part = spec_of([tensor("x", "float32", "n", 2)]).part_of({"x": x})
    assert join(key({"x": x}), [part], "") == predict_request(PredictCall(model="m", inputs={"x": x}), "")


@pytest.mark.parametrize(
    "different",
    [
        {"model": "n"},
        {"version": "1"},
        {"outputs": ["z", "y"]},
        {"outputs": None},
        {"priority": 1},
        {"inputs": {"x": ONE.astype(np.float64)}},
        {"inputs": {"x": np.ones((1, 4), np.float32)}},
        {"inputs": {"x": np.ones((1, 3, 1), np.float32)}},
        {"inputs": {"z": ONE}},
        {"inputs": {"x": ONE, "z": ONE}},
    ],
    ids=_shown,
)
def test_requests_that_differ_in_more_than_their_rows_have_different_keys(different):
    usual = PredictCall(model="m", inputs={"x": ONE}, outputs=["y", "z"])
    more_rows = usual.with_inputs({"x": np.zeros((5, 3), np.float32)})
    assert key_of(usual) == key_of(more_rows) != key_of(replace(usual, **different))


@pytest.mark.parametrize(
    "unusual",
    [
        {"model": 1},
        {"version": 1},
        {"priority": True},
        {"priority": 1.0},
        {"outputs": "y"},
        {"outputs": []},
        {"outputs": iter(["y"])},
        {"outputs": [["y"]]},
        {"inputs": [ONE]},
        {"inputs": {"x": [1.0]}},
        {"inputs": {"x": np.float32(1)}},
        {"inputs": {"x": np.array(1.0, np.float32)}},
        {"inputs": {"x": ONE.astype(">f4")}},
        {"inputs": {"x": ONE.astype(complex)}},
        {"inputs": {"x": memoryview(ONE)}},
    ],
    ids=_shown,
)
def test_an_unusual_request_has_no_key(unusual):
    assert key_of(replace(PredictCall(model="m", inputs={"x": ONE}), **unusual)) is None


def test_any_mapping_of_inputs_has_a_key():
    assert key(types.MappingProxyType({"x": ONE})) == key({"x": ONE})


TWO = [tensor("x", "float32", "n", "seq"), tensor("mask", "int64", "n", "seq", None, 2)]
GOOD = {"x": np.ones((1, 4), np.float32), "mask": np.ones((1, 4, 9, 2), np.int64)}


def test_a_request_that_fits_its_model_may_be_joined():
    spec = spec_of(TWO, [tensor("y", "float32", "n")])
    assert spec.takes(key(GOOD))
    assert spec.takes(key({**GOOD, "x": np.ones((9, 4), np.float32)}, outputs=["y"], version="1", priority=-10))
    assert spec.takes(key(dict(reversed(GOOD.items()))))


@pytest.mark.parametrize(
    "bad",
    [
        {"inputs": {"x": GOOD["x"]}},
        {"inputs": GOOD | {"z": ONE}},
        {"inputs": GOOD | {"x": ONE.astype(np.float64)}},
        {"inputs": GOOD | {"x": np.ones((1, 5), np.float32)}},
        {"inputs": GOOD | {"x": np.ones(1, np.float32)}},
        {"inputs": GOOD | {"mask": np.ones((1, 4, 9, 3), np.int64)}},
        {"outputs": ["z"]},
        {"outputs": ["y", "y"]},
        {"priority": 11},
        {"priority": -11},
    ],
    ids=[
        "input missing", "input unknown", "type", "axes of one name that differ", "rank", "fixed size",
        "output unknown", "output twice", "priority too high", "priority too low",
    ],
)  # fmt: skip
def test_a_request_that_a_server_would_refuse_is_not_joined(bad):
    spec = spec_of(TWO, [tensor("y", "float32", "n")])
    assert not spec.takes(key(**{"inputs": GOOD} | bad))


@pytest.mark.parametrize(
    "spec",
    [
        spec_of([tensor("x", "float32", "n", 3)], enabled=False),
        spec_of([tensor("x", "float32", "n", 3, batch_axis=1)]),
        spec_of([tensor("x", "float32", "n", 3, batch_axis=None)]),
        spec_of([tensor("x", "float32", "n", 3)], [tensor("y", "float32", 2, "n", batch_axis=1)]),
    ],
    ids=["not batched", "rows along another axis", "shared", "answers along another axis"],
)
def test_only_rows_along_the_first_axis_are_joined(spec):
    assert not spec.batches
    assert not spec.takes(key({"x": ONE}))


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.ones((1, 3), np.float32), "z": np.ones((2, 3), np.float32)},
        {"x": np.array([[b"\xff"]], dtype=object)},
        {"x": np.array([[2]], np.uint8).view(bool)},
        {"x": np.ones((33, 1), np.float32)},
        {"x": np.ones((1, 200_000), np.float32)},
        {},
    ],
    ids=["inputs that disagree on rows", "no UTF-8", "no bool", "too many rows", "too many bytes", "no inputs"],
)
def test_a_request_whose_values_do_not_fit_gives_nothing_to_join(inputs):
    assert spec_of([]).part_of(inputs) is None


def test_every_type_of_the_wire_can_be_part_of_a_key():
    for name, number in NUMBERS.items():
        made = key({"x": random_array(number, (1, 2), np.random.default_rng(0))})
        assert isinstance(made, Key), name
        assert made.inputs == (("x", number, (2,)),)
