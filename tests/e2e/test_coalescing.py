"""Concurrent calls of one client travel together, and nobody can tell but by how few requests there are."""

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from onnxserve import AsyncClient, Client, DeadlineExceeded, OnnxserveError, Prediction, Unavailable
from onnxserve.tensor import NAMES
from support import zoo

TYPES = [TensorProto.STRING, TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.BFLOAT16]
MODELS = {
    "double": zoo.double(),
    "two": zoo.two_by_two(),
    "sequence": zoo.sequence(),
    "gather": zoo.gather(),
    "fixed": zoo.fixed(),
    "slow": zoo.slow(),
    **{NAMES[number]: zoo.identity(number) for number in TYPES},
}
CONFIGS = {"double": "batching: {max_rows: 16}"}
SETTINGS = {"workers": 80}
CALLERS = 64
CALLS = 12  # of each


def column(rows, value=0.0):
    return np.full((rows, 3), value, np.float32)


def two(rows, other=None):
    a = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    b = np.arange(3 * (other or rows)).reshape(-1, 3)
    return {"a": a, "b": b}


def sequence(rows, length):
    x = np.arange(rows * length, dtype=np.float32).reshape(rows, length)
    return {"x": x, "mask": x % 2}


GOOD = [
    *[("double", {"x": column(rows, rows + 0.5)}, {}) for rows in (1, 1, 2, 5, 0, 9, 40)],
    *[("double", {"x": column(1, i)}, {"priority": i}) for i in (-10, 0, 10)],
    *[("two", two(rows), {}) for rows in (1, 2, 3)],
    *[("two", two(2), {"outputs": outputs}) for outputs in (["p"], ["q", "p"], ("q", "p"), [])],
    ("two", dict(reversed(two(4).items())), {}),
    *[("sequence", sequence(rows, length), {}) for rows, length in ((1, 3), (2, 3), (3, 3), (1, 7), (2, 7), (2, 0))],
    *[("gather", {"id": np.array([[i], [9 - i]])}, {}) for i in range(5)],
    ("fixed", {"x": np.ones((4, 3), np.float32)}, {}),
    ("slow", {"x": np.zeros((1, 1), np.float32)}, {}),
    ("string", {"x": np.array([["a", "日本"]])}, {}),
    ("string", {"x": np.array([["", "x" * 300], [b"bytes", "é"]], dtype=object)}, {"version": "1"}),
    ("string", {"x": np.array([["x", "a much longer one"]])}, {}),
    ("bool", {"x": np.array([[True, False]])}, {}),
    ("bool", {"x": np.array([[False, True], [True, True]])}, {}),
    ("float16", {"x": np.array([[1, np.inf], [2, 65504]], np.float16)}, {"request_id": "mine"}),
    ("float16", {"x": np.array([[1, 2], [3, 4]], ">f2")}, {}),
    ("bfloat16", {"x": np.array([[1.5, -2]], ml_dtypes.bfloat16)}, {}),
    ("bfloat16", {"x": np.array([[3, 4], [5, 6]], ml_dtypes.bfloat16)[:, ::-1]}, {"timeout": None}),
]
BAD = [
    ("double", {"x": np.ones((1, 4), np.float32)}, {}),
    ("double", {"x": np.ones((1, 3), np.float64)}, {}),
    ("double", {"x": np.ones(3, np.float32)}, {}),
    ("double", {"z": column(1)}, {}),
    ("double", {"x": column(1)}, {"outputs": ["y", "z"]}),
    ("double", {"x": column(1)}, {"outputs": "y"}),
    ("double", {"x": column(1)}, {"version": "7"}),
    ("double", {"x": column(1)}, {"priority": 11}),
    ("double", {"x": column(1)}, {"priority": 1.5}),
    ("double", {"x": column(1)}, {"timeout": -1}),
    ("double", {"x": column(1).tolist()}, {}),
    ("nope", {"x": column(1)}, {}),
    ("two", {"a": two(1)["a"]}, {}),
    ("two", two(2, other=3), {}),
    ("sequence", {"x": np.ones((1, 3), np.float32), "mask": np.ones((1, 4), np.float32)}, {}),
    ("gather", {"id": np.array([[99], [1]])}, {}),
    ("fixed", {"x": np.ones((3, 3), np.float32)}, {}),
    ("string", {"x": np.array([[b"\xff", b"a"]], dtype=object)}, {}),
    ("string", {"x": np.array([["a", 1]], dtype=object)}, {}),
    ("bool", {"x": np.array([[2, 1]], np.uint8).view(bool)}, {}),
]
LATE = [("slow", {"x": np.full((1, 1), 1000, np.float32)}, {"timeout": timeout}) for timeout in (0.05, 0.11, 0.2)]
USUAL, WRONG, LEAVING = "usual", "wrong", "leaving"
CASES = {USUAL: GOOD, WRONG: BAD, LEAVING: LATE}


def plan(seed):
    """What each caller asks, one call after the other: one in ten is bad, one in ten leaves before it is answered."""
    rng = random.Random(seed)
    return [
        [(kind, rng.randrange(1000)) for kind in rng.choices([USUAL, WRONG, LEAVING], [8, 1, 1], k=CALLS)]
        for _ in range(CALLERS)
    ]


def summary(outcome):
    """All of an outcome that a caller may rely on."""
    if isinstance(outcome, Prediction):
        outputs = [(name, array.dtype, array.shape, array.tolist()) for name, array in outcome.items()]
        return outcome.model, outcome.version, repr(outputs)  # NaN equals NaN in repr
    if isinstance(outcome, DeadlineExceeded):  # the client or the server may notice it first
        return DeadlineExceeded, outcome.code
    if isinstance(outcome, OnnxserveError):
        return type(outcome), outcome.code, outcome.message, outcome.reason, outcome.violations, outcome.resource
    return type(outcome), str(outcome)


def outcome_of(client, model, inputs, options):
    try:
        return client.predict(model, inputs, **options)
    except Exception as error:
        return error


@pytest.fixture(scope="module")
def alone(shared):
    """What each case gives when it is asked alone, without coalescing."""
    with Client(shared.address, coalesce=False) as client:
        return {
            (kind, number): summary(outcome_of(client, *case))
            for kind, cases in CASES.items()
            for number, case in enumerate(cases)
        }


def check(answers, expected):
    """Check what came of cases; an answer has a receipt object of its own unless it travelled with others."""
    wrong = [(case, summary(got), expected[case]) for case, got in answers if summary(got) != expected[case]]
    assert not wrong, f"{len(wrong)} of {len(answers)}, such as {wrong[0]}"
    predictions = [got for _, got in answers if isinstance(got, Prediction)]
    names = [got.request_id for _, got in answers if getattr(got, "request_id", "mine") not in ("", "mine")]
    assert len(names) == len({*names})
    receipts = {id(prediction.receipt) for prediction in predictions}
    assert len(receipts) < len(predictions)
    assert max(prediction.receipt.batch_rows for prediction in predictions) > 1


def case_of(kind, number):
    """The name of a case of that kind, and the case."""
    number %= len(CASES[kind])
    return (kind, number), CASES[kind][number]


@pytest.mark.parametrize("seed", range(2))
def test_each_of_64_threads_gets_what_it_would_have_got_alone(server, alone, seed):
    with Client(server.address) as client:
        start = threading.Barrier(CALLERS)

        def call(asked):
            start.wait()
            return [(case, outcome_of(client, *asked)) for case, asked in (case_of(*each) for each in asked)]

        with ThreadPoolExecutor(CALLERS) as pool:
            answers = [answer for of_one in pool.map(call, plan(seed)) for answer in of_one]
        assert not client._coalescer._groups
    check(answers, alone)


@pytest.mark.parametrize("seed", range(2))
def test_each_of_64_tasks_gets_what_it_would_have_got_alone(server, alone, seed):
    rng = random.Random(seed)

    async def one(client, kind, number):
        """A call that leaves is cancelled at some moment, or runs into its timeout."""
        if kind is LEAVING and number % 2:
            case, (model, inputs, options) = case_of(USUAL, number)
            task = asyncio.create_task(client.predict(model, inputs, **options))
            for _ in range(rng.choice([0, 1, 2, 5, 20, 100])):
                await asyncio.sleep(0)
            task.cancel()
        else:
            case, (model, inputs, options) = case_of(kind, number)
            task = asyncio.create_task(client.predict(model, inputs, **options))
        try:
            return case, await task
        except asyncio.CancelledError:
            assert kind is LEAVING
            return None
        except Exception as error:
            return case, error

    async def caller(client, calls):
        return [await one(client, *each) for each in calls]

    async def all_callers():
        async with AsyncClient(server.address) as client:
            answers = await asyncio.gather(*(caller(client, calls) for calls in plan(seed)))
            assert not client._coalescer._groups
            return [answer for of_one in answers for answer in of_one]

    answers = asyncio.run(all_callers())
    assert None in answers
    check([answer for answer in answers if answer is not None], alone)


def test_a_request_that_the_model_fails_on_fails_alone_among_those_it_travels_with(server):
    ids = [99 if i % 10 == 0 else i % 10 for i in range(CALLERS)]
    start = threading.Barrier(CALLERS)
    with Client(server.address) as client:

        def call(number):
            start.wait()
            return [outcome_of(client, "gather", {"id": np.array([[number]])}, {}) for _ in range(5)]

        with ThreadPoolExecutor(CALLERS) as pool:
            answers = [*pool.map(call, ids)]
    for number, got in zip(ids, answers, strict=True):
        if number == 99:
            assert {(type(each).__name__, each.reason) for each in got} == {("InvalidArgument", "INVALID_VALUES")}
        else:
            assert [each["y"].tolist() for each in got] == [[[10 * number]]] * 5


def test_a_server_that_stops_answers_or_is_unavailable(serving, tmp_path, edge):
    def call(client, number):
        outcome, got = None, 0
        while not isinstance(outcome, Exception):
            outcome = outcome_of(client, "double", {"x": column(1, number)}, {})
            got += isinstance(outcome, Prediction) and outcome["y"].tolist() == [[2 * number] * 3]
        return type(outcome), got

    with ThreadPoolExecutor(16) as pool:
        with serving(zoo.write(tmp_path, {"double": zoo.double()}), edge=edge) as server:
            client = Client(server.address, retries=0)
            calls = [pool.submit(call, client, number) for number in range(16)]
            for _ in range(50):
                client.predict("double", {"x": column(1)})
        ends = [each.result(60) for each in calls]
        client.close()
    assert {error for error, _ in ends} == {Unavailable}
    assert sum(got for _, got in ends) > 50


def test_a_queue_too_short_for_all_together_takes_as_many_as_it_would_one_by_one(serve):
    server = serve({"slow": zoo.slow()}, {"slow": "batching: {max_rows: 4, max_queue_rows: 2}"})
    with Client(server.address) as client, ThreadPoolExecutor(8) as pool:
        with server.occupied():
            calls = [pool.submit(client.predict, "slow", {"x": np.zeros((1, 1), np.float32)}) for _ in range(8)]
            server.wait_for("slow", lambda load: load.queued_rows == 2)
        errors = [call.exception(30) for call in calls]
    assert {error.code for error in errors if error} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert errors.count(None) >= 2
