"""Requests of different callers share runs, and nobody can tell but by the receipt."""

import time

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from onnxserve import InvalidArgument, Prediction
from onnxserve.errors import from_rpc_error
from onnxserve.tensor import NAMES
from support import zoo
from support.arrays import random_array, same_bits

CALLERS = 64
TYPES = sorted(NAMES)

several = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
rows_of_callers = st.lists(st.integers(1, 5), min_size=CALLERS, max_size=CALLERS)
seeds = st.integers(0, 2**32 - 1)

MODELS = {
    **{f"identity_{NAMES[number]}": zoo.identity(number) for number in TYPES},
    "two_by_two": zoo.two_by_two(),
    "mlp": zoo.mlp(),
    "double": zoo.double(),
    "sequence": zoo.sequence(),
    "gather": zoo.gather(),
    "fixed": zoo.fixed(),
    "scaled": zoo.scaled(),
    "frozen": zoo.frozen(),
    "mixing": zoo.mixing(),
    "small": zoo.double(),
    "small_string": zoo.identity(TensorProto.STRING),
    "unsplit": zoo.double(),
    "patient": zoo.double(),
    "half_patient": zoo.sequence(),
    "alone_and_patient": zoo.fixed(),
    "slow": zoo.slow(),
}
WAITING = "batching: {max_delay_us: 3000}"  # a burst from one machine is spread over about as long
CONFIGS = {
    **dict.fromkeys([f"identity_{NAMES[number]}" for number in TYPES], WAITING),
    **dict.fromkeys(("two_by_two", "mlp", "double", "gather", "sequence"), WAITING),
    "small": "batching: {max_rows: 4}",
    "small_string": "batching: {max_rows: 4}",
    "unsplit": "batching: {max_rows: 4, oversize: refuse}",
    "patient": "batching: {max_rows: 4, max_delay_us: 10000000}",
    "half_patient": "batching: {max_rows: 2, max_delay_us: 10000000}",
    "alone_and_patient": "batching: {max_delay_us: 10000000}",
}


SETTINGS = {"workers": CALLERS + 8}


def answers(calls):
    return [Prediction(call.result(timeout=30)) for call in calls]


def error_of(call):
    return from_rpc_error(call.exception(timeout=30))


def largest_batch(predictions):
    return max(prediction.receipt.batch_requests for prediction in predictions)


@pytest.mark.parametrize("number", TYPES, ids=NAMES.get)
@several
@given(rows_of_callers, seeds)
def test_every_caller_gets_its_own_rows_and_nobody_elses(server, number, rows, seed):
    rng = np.random.default_rng(seed)
    sent = [random_array(number, (count, 2), rng) for count in rows]
    got = answers([server.send(f"identity_{NAMES[number]}", x=array) for array in sent])
    assert all(same_bits(array, prediction["y"]) for array, prediction in zip(sent, got, strict=True))
    assert largest_batch(got) > 1


@settings(several, max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["p", "q", "pq", "qp"])), min_size=64, max_size=64), seeds)
def test_callers_of_a_model_of_many_tensors_get_the_outputs_that_they_ask_for(server, callers, seed):
    rng = np.random.default_rng(seed)
    sent = [(rng.standard_normal((n, 2)).astype("f4"), rng.integers(-99, 99, (n, 3))) for n, _ in callers]
    calls = [
        server.send("two_by_two", outputs=[*wanted], **({"a": a, "b": b} if i % 2 else {"b": b, "a": a}))
        for i, ((_, wanted), (a, b)) in enumerate(zip(callers, sent, strict=True))
    ]
    got = answers(calls)
    for (_, wanted), (a, b), prediction in zip(callers, sent, got, strict=True):
        right = {"p": 2 * a, "q": b + 1}
        assert [*prediction] == [*wanted]
        assert all(same_bits(prediction[name], right[name]) for name in wanted)
    assert largest_batch(got) > 1


@settings(several, max_examples=10)
@given(rows_of_callers, seeds)
def test_an_answer_is_to_the_bit_that_of_a_run_of_its_own(server, rows, seed):
    rng = np.random.default_rng(seed)
    alone = onnxruntime.InferenceSession(zoo.double().SerializeToString(), providers=["CPUExecutionProvider"])
    sent = [rng.standard_normal((count, 3)).astype("f4") for count in rows]
    got = answers([server.send("double", x=array) for array in sent])
    for array, prediction in zip(sent, got, strict=True):
        assert same_bits(prediction["y"], alone.run(None, {"x": array})[0])
    assert largest_batch(got) > 1


def test_callers_get_their_own_rows_where_the_thread_that_decodes_runs_the_model(serve):
    server = serve({"double": zoo.double()}, inline_us=1_000_000)
    for _ in range(20):
        sent = [np.full((1 + i % 5, 3), i, np.float32) for i in range(CALLERS)]
        got = answers([server.send("double", x=x) for x in sent])
        assert all(same_bits(prediction["y"], 2 * x) for x, prediction in zip(sent, got, strict=True))


@settings(several, max_examples=10)
@given(rows_of_callers, seeds)
def test_where_kernels_round_differently_an_answer_is_within_1e_6_of_a_run_of_its_own(server, rows, seed):
    rng = np.random.default_rng(seed)
    alone = onnxruntime.InferenceSession(zoo.mlp().SerializeToString(), providers=["CPUExecutionProvider"])
    sent = [rng.standard_normal((count, 64)).astype("f4") for count in rows]
    got = answers([server.send("mlp", x=array) for array in sent])
    for array, prediction in zip(sent, got, strict=True):
        np.testing.assert_allclose(prediction["y"], alone.run(None, {"x": array})[0], rtol=1e-6, atol=1e-6)
    assert largest_batch(got) > 1


@settings(several, max_examples=10)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=CALLERS, max_size=CALLERS), seeds)
def test_rows_of_different_shapes_batch_among_themselves(server, shapes, seed):
    rng = np.random.default_rng(seed)
    sent = [rng.integers(-9, 9, (2, *shape)).astype("f4") for shape in shapes]
    got = answers([server.send("sequence", x=x, mask=mask) for x, mask in sent])
    for (x, mask), prediction in zip(sent, got, strict=True):
        np.testing.assert_array_equal(prediction["y"], (x * mask).sum(axis=1))
    assert largest_batch(got) > 1


# Sizes


def test_rows_above_max_rows_are_split_and_joined_in_order(server):
    x = np.arange(33, dtype=np.float32).reshape(11, 3)
    prediction = server.client.predict("small", {"x": x})
    np.testing.assert_array_equal(prediction["y"], 2 * x)
    assert prediction.receipt.batch_rows == 4


@several
@given(st.lists(st.integers(1, 13), min_size=24, max_size=24))
def test_split_requests_of_many_callers_are_not_mixed_up(server, rows):
    sent = [
        np.array([[f"caller {caller}", f"row {row}"] for row in range(count)], object)
        for caller, count in enumerate(rows)
    ]
    got = answers([server.send("small_string", x=array) for array in sent])
    assert all(same_bits(array, prediction["y"]) for array, prediction in zip(sent, got, strict=True))
    assert max(prediction.receipt.batch_rows for prediction in got) <= 4


def test_rows_above_max_rows_are_refused_where_the_model_is_set_so(server):
    with pytest.raises(InvalidArgument) as error:
        server.client.predict("unsplit", {"x": np.zeros((5, 3), np.float32)})
    assert [violation.field for violation in error.value.violations] == ["inputs[0].shape"]
    assert server.client.predict("unsplit", {"x": np.zeros((4, 3), np.float32)})["y"].shape == (4, 3)


@pytest.mark.parametrize("model", ["double", "small"])
def test_no_rows_give_no_rows(server, model):
    answer = server.client.predict(model, {"x": np.zeros((0, 3), np.float32)})["y"]
    assert (answer.shape, answer.dtype) == ((0, 3), np.float32)


@pytest.mark.parametrize("number", TYPES, ids=NAMES.get)
def test_no_rows_of_any_type_give_no_rows(server, number):
    empty = random_array(number, (0, 2), np.random.default_rng(0))
    assert same_bits(server.client.predict(f"identity_{NAMES[number]}", {"x": empty})["y"], empty)


def test_no_rows_beside_the_rows_of_others_give_no_rows(server):
    shapes = (1, 0, 2, 0)
    with server.occupied():
        calls = [server.send("slow", x=np.full((rows, 1), rows, np.float32)) for rows in shapes]
        server.wait_for("slow", lambda load: load.queued_jobs == 4)
        assert server.load("slow").queued_rows == 5  # one without rows counts as one
    got = answers(calls)
    assert [prediction["y"].ravel().tolist() for prediction in got] == [[1], [], [2, 2], []]
    assert {prediction.receipt.batch_requests for prediction in got} == {4}


# Models that cannot be batched


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("fixed", "the first axis of input x has the fixed size 4"),
        ("scaled", "input s is a scalar: it has no batch axis"),
        ("frozen", "the first axis of output y has the fixed size 1"),
        ("mixing", "a row of its output y depends on the other rows of its batch"),
    ],
)
def test_a_model_that_cannot_be_batched_says_why(server, model, reason):
    batching = server.client.model(model).batching
    assert (batching.enabled, batching.max_rows) == (False, 1)
    assert batching.reason.startswith(reason)


@pytest.mark.parametrize("model", ["double", "two_by_two", "sequence", "slow", "identity_string", "identity_bfloat16"])
def test_a_model_that_can_be_batched_is(server, model):
    assert (server.client.model(model).batching.enabled, server.client.model(model).batching.reason) == (True, "")


def numbered(shape, count=32):
    return [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i in range(count)]


@pytest.mark.parametrize(
    ("model", "shape", "right"),
    [
        ("fixed", (4, 3), lambda x: 2 * x),
        ("frozen", (1, 2), lambda x: x),
        ("mixing", (3, 2), lambda x: x - x.mean(axis=0)),
    ],
)
def test_a_model_that_cannot_be_batched_serves_many_callers_one_by_one(server, model, shape, right):
    sent = numbered(shape)
    got = answers([server.send(model, x=x) for x in sent])
    for x, prediction in zip(sent, got, strict=True):
        np.testing.assert_allclose(prediction["y"], right(x), rtol=1e-6, atol=1e-6)
    assert {(got.receipt.batch_requests, got.receipt.batch_rows) for got in got} == {(1, 1)}


def test_scalars_go_in_and_out(server):
    sent = [(x, np.float32(i)) for i, x in enumerate(numbered((3, 2)))]
    got = answers([server.send("scaled", x=x, s=s) for x, s in sent])
    for (x, s), prediction in zip(sent, got, strict=True):
        assert same_bits(prediction["y"], x * s)
        assert prediction["largest"].shape == ()
        assert prediction["largest"] == (x * s).max()


def test_a_model_that_cannot_be_batched_never_waits_for_mates(server):
    receipt = server.client.predict("alone_and_patient", {"x": np.zeros((4, 3), np.float32)}, timeout=8).receipt
    assert receipt.batch_wait_us < 5_000_000


# Delay


def test_a_lone_request_waits_for_nobody(server):
    receipt = server.client.predict("small", {"x": np.zeros((1, 3), np.float32)}).receipt
    assert receipt.batch_requests == 1


def test_a_lone_request_waits_for_mates_only_as_long_as_configured(server):
    receipt = server.client.predict("double", {"x": np.zeros((1, 3), np.float32)}).receipt
    assert receipt.batch_wait_us + receipt.queue_us >= 3000
    assert receipt.batch_requests == 1


def test_a_full_batch_runs_long_before_the_delay_is_over(server):
    one = server.send("patient", x=np.zeros((1, 3), np.float32))
    server.wait_for("patient", lambda load: load.queued_rows == 1)
    three = server.send("patient", x=np.zeros((3, 3), np.float32))
    one, three = answers([one, three])
    assert one.receipt.batch_requests == three.receipt.batch_requests == 2
    assert one.receipt.batch_wait_us < 5_000_000


def test_a_row_shape_that_waits_for_mates_does_not_hold_up_another(server):
    def row(size):
        return {"x": np.ones((1, size), np.float32), "mask": np.ones((1, size), np.float32)}

    waiting = server.send("half_patient", **row(3))
    server.wait_for("half_patient", lambda load: load.queued_rows == 1)
    got = answers([server.send("half_patient", **row(5)) for _ in range(2)])
    assert [prediction["y"].tolist() for prediction in got] == [[5], [5]]
    assert not waiting.done()
    got = answers([server.send("half_patient", **row(3)), waiting])
    assert [(prediction["y"].tolist(), prediction.receipt.batch_requests) for prediction in got] == [([3], 2)] * 2


# Priority


def test_high_priority_goes_first_and_low_is_still_served(serve):
    server = serve({"slow": zoo.slow()}, {"slow": "batching: {max_rows: 1, ageing_ms: 60000}"}, inline_us=0)
    calls, arrived = {}, {}
    with server.occupied():
        for number, (name, priority) in enumerate([("low", -5), ("usual", 0), ("usual, later", 0), ("high", 5)], 1):
            calls[name] = server.send("slow", priority=priority, x=np.full((1, 1), 100, np.float32))
            server.wait_for("slow", lambda load, number=number: load.queued_jobs == number)
            arrived[name] = time.monotonic()
    order = []
    for name, call in calls.items():
        receipt = Prediction(call.result(timeout=30)).receipt
        order.append((arrived[name] + (receipt.queue_us + receipt.batch_wait_us) / 1e6, name))
    assert [name for _, name in sorted(order)] == ["high", "usual", "usual, later", "low"]


# Failures


@several
@given(st.lists(st.integers(0, 10), min_size=24, max_size=24), seeds)
def test_a_request_that_the_model_fails_on_fails_alone(server, ids, seed):
    ids = [99 if number == 10 else number for number in ids]
    got = [server.send("gather", id=np.array([[number]])) for number in ids]
    for number, call in zip(ids, got, strict=True):
        if number == 99:
            error = error_of(call)
            assert isinstance(error, InvalidArgument)
            assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", "INVALID_VALUES")
        else:
            assert Prediction(call.result(timeout=30))["y"].tolist() == [[number * 10]]
    assert server.client.predict("gather", {"id": np.array([[3]])})["y"].tolist() == [[30]]
