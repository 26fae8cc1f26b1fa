"""Models whose rows depend on each other, served by the defaults: callers get what ONNX Runtime gives each alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

from onnxserve import Client
from onnxserve_server.web.predict import MAX_CONCURRENT
from support import zoo, zoo_rows
from support.asking import Http

CALLERS = 16
SETTINGS = {"http_port": 0}


def whole_numbers(*row):
    """x, int64 [rows, *row], whose largest is another one in each request."""
    return lambda rows, rng: {"x": rng.integers(1, rng.integers(2, 1000), (rows, *row))}


def lengths(rows, rng):
    return {"lengths": rng.integers(1, rng.integers(2, 9), rows), "ids": rng.integers(0, 99, (rows, 3))}


def floats(rows, rng):
    return {"x": (rng.standard_normal((rows, 64)) * 10.0 ** rng.integers(-2, 3)).astype(np.float32)}


def some_dropped(rows, rng):
    x = rng.standard_normal((rows, 4)).astype(np.float32)
    x[rng.random(rows) < 0.3, 0] = zoo.DROPPED
    return {"x": x}


CASES = {
    "share": (zoo_rows.share_of_largest(["n"]), whole_numbers()),
    "share_of_3": (zoo_rows.share_of_largest(["n", 3]), whole_numbers(3)),
    "share_of_1": (zoo_rows.share_of_largest(["n", 1]), whole_numbers(1)),
    "lengths_first": (zoo_rows.masks_beside_ids(lengths_first=True), lengths),
    "ids_first": (zoo_rows.masks_beside_ids(lengths_first=False), lengths),
    "int8": (zoo_rows.quantized(), floats),
    "compress": (zoo.dropping(), some_dropped),
}
MODELS = {name: model for name, (model, _) in CASES.items()}


@pytest.fixture(scope="module")
def requests():
    """Requests of one to three rows for a model, each with what ONNX Runtime gives for it."""

    def made(name, number):
        model, inputs_of = CASES[name]
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        rng = np.random.default_rng(0)
        asked = [inputs_of(int(rng.integers(1, 4)), rng) for _ in range(number)]
        return [(inputs, dict(zip(names, session.run(None, inputs), strict=True))) for inputs in asked]

    return made


@pytest.mark.parametrize("name", CASES)
def test_callers_at_a_time_get_their_own_answers(server, requests, attack, name):
    asked = requests(name, attack.size(100, 5000))
    with Client(server.address) as client, ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(lambda request: client.predict(name, request[0]), asked))
    wrong = [inputs for (inputs, right), got in zip(asked, answers, strict=True) if not same(got, right)]
    attack.count("answers by gRPC", len(answers))
    assert wrong == []


@pytest.mark.parametrize("name", CASES)
def test_callers_by_json_do_too(server, requests, attack, name):
    def ask(request):
        tensors = {each: {"data": array.tolist()} for each, array in request[0].items()}
        status, reply = Http(server.app.http_port).predict({"model": name, "inputs": tensors})
        assert status == 200, reply
        return {each["name"]: np.reshape(each["data"], each["shape"]) for each in reply["outputs"]}

    asked = requests(name, attack.size(20, 500))
    with ThreadPoolExecutor(MAX_CONCURRENT) as pool:
        answers = list(pool.map(ask, asked))
    wrong = [inputs for (inputs, right), got in zip(asked, answers, strict=True) if not same(got, right)]
    attack.count("answers by JSON", len(answers))
    assert wrong == []


def same(got, right):
    """Whether all outputs are equal; JSON has the shortest digits of a float32, read as a float64."""
    return got.keys() == right.keys() and all(
        got[name].shape == right[name].shape and np.array_equal(got[name].astype(right[name].dtype), right[name])
        for name in right
    )
