"""Outputs that are the same for all rows: every caller of a run gets all of them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxserve import AsyncClient, Client, Prediction
from support import zoo
from support.arrays import same_bits
from support.asking import Http
from support.zoo import FLOAT, INT64, constant, tensor

CALLERS = 16
ANCHORS = constant("anchors", np.arange(8).reshape(2, 4))
NAMES = helper.make_tensor("names", TensorProto.STRING, [3], [b"cat", "\u00e9t\u00e9".encode(), b""])


def given(name, *shape, dtype=FLOAT):
    """An output of which the graph says more, or less, than holds: it is the initializer `anchors`."""
    return zoo.constant_beside(
        [tensor(name, shape, dtype)], [helper.make_node("Identity", ["anchors"], [name])], [ANCHORS]
    )


def of_shared_input():
    """z = the sum of the input scale, float32 [k], which is shared."""
    node = helper.make_node("ReduceSum", ["scale"], ["z"], keepdims=0)
    return zoo.constant_beside([tensor("z", [])], [node], inputs=[tensor("scale", ["k"])])


def by_count():
    """z = the number of rows, int64 [1]."""
    return zoo.constant_beside([tensor("z", [1], INT64)], [helper.make_node("Shape", ["x"], ["z"], end=1)])


def random():
    """z = two random numbers."""
    return zoo.constant_beside([tensor("z", [2])], [helper.make_node("RandomNormal", [], ["z"], shape=[2])])


BATCHED = {
    "fixed": given("z", 2, 4),
    "free": given("z", "anchor", 4),
    "as_if_of_rows": given("z", "batch", 4),
    "scalar": zoo.constant_beside(
        [tensor("z", [], INT64)], [helper.make_node("Identity", ["five"], ["z"])], [constant("five", 5, np.int64)]
    ),
    "names": zoo.constant_beside(
        [tensor("z", [3], TensorProto.STRING)], [helper.make_node("Identity", ["names"], ["z"])], [NAMES]
    ),
    "of_shared_input": of_shared_input(),
}
ALONE = {"by_count": by_count(), "random": random()}
MODELS = BATCHED | ALONE
WAITING = "batching: {max_rows: 4, max_delay_us: 3000}"  # a burst from one machine is spread over about as long
CONFIGS = {
    **dict.fromkeys(BATCHED, WAITING),
    "of_shared_input": f"{{shared: [scale], {WAITING}}}",
}
SETTINGS = {"workers": CALLERS + 8, "http_port": 0}


@pytest.fixture(scope="module")
def alone():
    """Run a model for one caller, without a server."""
    sessions = {
        name: onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for name, model in BATCHED.items()
    }
    return lambda name, inputs: dict(zip(("y", "z"), sessions[name].run(None, inputs), strict=True))


def inputs_of(name, rows, number):
    x = {"x": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + number}
    return x | ({"scale": np.float32([1, number % 2])} if name == "of_shared_input" else {})


def spec_of(server, name):
    return server.app.engine.table.resolve(name).spec


def same(prediction, right):
    return prediction.keys() == right.keys() and all(same_bits(prediction[name], right[name]) for name in right)


@pytest.mark.parametrize("name", BATCHED)
def test_every_caller_of_a_run_gets_what_it_gets_alone(server, alone, name):
    sent = [inputs_of(name, (1, 2, 1, 3)[i % 4], i) for i in range(CALLERS)]
    calls = [server.send(name, **inputs) for inputs in sent]
    got = [Prediction(call.result(timeout=30)) for call in calls]
    assert all(same(prediction, alone(name, inputs)) for inputs, prediction in zip(sent, got, strict=True))
    assert max(prediction.receipt.batch_requests for prediction in got) > 1
    assert not spec_of(server, name).batching.stopped


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("rows", [0, 1, 11])
def test_a_request_of_no_rows_or_of_more_than_a_run_takes_gets_them_once(server, alone, name, rows):
    inputs = inputs_of(name, rows, 1)
    got = Prediction(server.send(name, **inputs).result(timeout=30))
    assert same(got, alone(name, inputs))


@pytest.mark.parametrize("name", BATCHED)
def test_by_json_it_is_whole_too(server, alone, name):
    inputs = inputs_of(name, 5, 0)
    tensors = {each: {"data": array.tolist()} for each, array in inputs.items()}
    status, reply = Http(server.app.http_port).predict({"model": name, "inputs": tensors})
    right = alone(name, inputs)
    assert status == 200
    assert [(each["name"], each["shape"], each["data"]) for each in reply["outputs"]] == [
        (each, list(array.shape), array.ravel().tolist()) for each, array in right.items()
    ]


@pytest.mark.parametrize("name", BATCHED)
def test_clients_are_told_and_join_calls_all_the_same(server, alone, name):
    def ask(number):
        return client.predict(name, inputs_of(name, 1, number))

    with Client(server.address) as client, ThreadPoolExecutor(CALLERS) as pool:
        info = client.model(name)
        assert [spec.batch_axis for spec in info.outputs] == [0, None]
        assert info.batching.enabled
        got = list(pool.map(ask, range(200)))
    assert all(same(prediction, alone(name, inputs_of(name, 1, i))) for i, prediction in enumerate(got))
    if name != "of_shared_input":  # calls for models with shared inputs are never joined
        assert len({prediction.receipt for prediction in got}) < len(got)


def test_the_asynchronous_client_joins_them_too(server, alone):
    async def ask_all():
        async with AsyncClient(server.address) as client:
            return await asyncio.gather(*(client.predict("fixed", inputs_of("fixed", 1, i)) for i in range(100)))

    got = asyncio.run(ask_all())
    assert all(same(prediction, alone("fixed", inputs_of("fixed", 1, i))) for i, prediction in enumerate(got))


@pytest.mark.parametrize("name", ALONE)
def test_what_depends_on_the_run_is_not_shared(server, name):
    assert not spec_of(server, name).batching.enabled
    assert spec_of(server, name).outputs[1].batch_axis == 0
