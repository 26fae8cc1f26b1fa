"""Requests that would end the process are refused wherever they come in, and the model says which they are."""

import numpy as np
import pytest

from onnxserve import Condition, InvalidArgument
from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2 as inference
from support import zoo
from support.asking import Http
from support.streaming import error_of, output

MIN = -(2**63)
MODELS = {"gru": zoo.gru(), "quotient": zoo.quotient(), "negated": zoo.negated()}
MODELS["nothing"] = zoo.gather_from_nothing()
CONFIGS = {"negated": "feedback: {y: x}"}


@pytest.fixture(scope="module", params=["lane", "plain"])
def server(request, serving, tmp_path_factory):
    root = zoo.write(tmp_path_factory.mktemp("models"), MODELS, CONFIGS)
    with serving(root, edge=request.param, http_port=0) as running:
        yield running


def negated(value, steps=0):
    request = inference.PredictRequest(model="negated", inputs=[encode("x", np.array([[value]]))])
    message = inference.StreamRequest(predict=request)
    if steps:
        message.steps.max = steps
    return message


def test_a_call_is_refused_and_the_next_one_is_answered(server):
    with pytest.raises(InvalidArgument) as raised:
        server.client.predict("gru", {"x": np.zeros((1, 0, 4), np.float32)})
    (violation,) = raised.value.violations
    assert violation.field == "inputs[0].shape"
    assert violation.description.startswith("axis 1 of input 'x' has the size 0, which the model does not survive: ")
    assert server.client.predict("gru", {"x": np.zeros((1, 2, 4), np.float32)})["y"].shape == (1, 2, 3)


def test_no_rows_are_run_as_one(server):
    assert server.client.predict("gru", {"x": np.zeros((0, 2, 4), np.float32)})["y"].shape == (0, 2, 3)


def test_no_rows_of_divisors_give_no_rows(server):
    empty = np.zeros(0, np.int64)
    assert server.client.predict("quotient", {"x": empty, "y": empty})["q"].tolist() == []


def test_values_are_refused_together_alone(server):
    assert server.client.predict("quotient", {"x": np.array([MIN]), "y": np.array([2])})["q"] == [MIN // 2]
    assert server.client.predict("quotient", {"x": np.array([7]), "y": np.array([-1])})["q"] == [-7]
    with pytest.raises(InvalidArgument, match=f"an element of input 'x' is {MIN} and an element of input 'y' is -1"):
        server.client.predict("quotient", {"x": np.array([MIN]), "y": np.array([-1])})


def test_a_stream_goes_on_after_a_refusal(server):
    refused, answered = server.stub.Stream(iter([negated(MIN), negated(4)]), timeout=60)
    assert error_of(refused)[1:] == ("INVALID_REQUEST", ["inputs[0].data"])
    assert output(answered).item() == -5


def test_a_step_that_would_take_the_answer_of_the_one_before_is_refused(server):
    first, second = server.stub.Stream(iter([negated(2**63 - 1, steps=3)]), timeout=60)
    assert output(first).item() == MIN
    assert error_of(second)[1:] == ("INVALID_REQUEST", ["inputs"])  # the server gave it


def test_json_is_refused_by_the_name_of_the_input(server):
    page = Http(server.app.http_port)
    status, reply = page.predict(b'{"model":"gru","inputs":{"x":{"data":[],"shape":[1,0,4]}}}')
    assert (status, reply["violations"][0]["field"]) == (400, "inputs.x.shape")
    status, reply = page.predict({"model": "negated", "inputs": {"x": {"data": [[str(MIN)]]}}})
    assert (status, reply["violations"][0]["field"]) == (400, "inputs.x.data")


def test_the_model_has_its_rules(server, onnxserve):
    (rule,) = server.client.model("gru").rules
    assert rule.conditions == (Condition(input="x", axis=1, value=0),)
    (rule,) = server.client.model("negated").rules
    assert rule.conditions == (Condition(input="x", axis=None, value=MIN),)
    models = {model["name"]: model for model in Http(server.app.http_port).fetch_status()["models"]}
    (rule,) = models["gru"]["rules"]
    assert rule.startswith("axis 1 of input 'x' has the size 0, which the model does not survive: ")
    untried = server.client.model("nothing").untried
    assert untried.startswith("no made-up inputs were found that it runs on, and a kernel that refuses")
    assert (models["nothing"]["untried"], models["gru"]["untried"]) == (untried, "")
    printed = onnxserve("models", "--target", server.address).stdout
    assert "refused: the size of axis 1 of x is 0; a trial of it ended the process (killed by signal 6)" in printed
    assert f"refused: an element of x is {MIN} and an element of y is -1; a trial of it" in printed
    assert "not tried in full: no made-up inputs were found" in printed
