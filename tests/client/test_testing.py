"""onnxserve.testing: functions behind a real gRPC server, called by both clients."""

import asyncio
import subprocess
import sys
import threading
import types
from pathlib import Path

import grpc
import numpy as np
import pytest

import onnxserve
from onnxserve import testing
from support.functions import FOR_EVER, X, double, wait_for_cancellation

ROOT = Path(__file__).parents[2]


def refuse(inputs):
    if inputs["x"].sum() > 0:
        raise onnxserve.InvalidArgument(
            grpc.StatusCode.INVALID_ARGUMENT,
            "inputs[0]: too large (and 1 more)",
            violations=(
                onnxserve.FieldViolation("inputs[0]", "too large"),
                onnxserve.FieldViolation("priority", "too low"),
            ),
        )
    return double(inputs)


def test_a_function_answers_predict(serve_functions, either):
    client = either.connect(serve_functions({"double": double}).target)
    prediction = client.predict("double", X, request_id="mine")
    assert prediction["y"].tolist() == [[2, 4]]
    assert (prediction.model, prediction.version, prediction.request_id) == ("double", "1", "mine")
    assert prediction.receipt.provider == "function"


def test_a_function_answers_a_stream_in_order(serve_functions, either):
    client = either.connect(serve_functions({"double": double}).target)
    answers = client.stream("double", [{"x": np.full(1, number)} for number in range(100)], window=7)
    assert [answer["y"].item() for answer in answers] == [2 * number for number in range(100)]


def test_an_error_in_a_stream_answers_its_own_request(serve_functions, either):
    client = either.connect(serve_functions({"refuse": refuse}).target)
    inputs = [{"x": np.full(1, value)} for value in (-1, 1, -2)]
    first, error, last = client.stream("refuse", inputs, return_errors=True)
    assert (first["y"].item(), last["y"].item()) == (-2, -4)
    assert [each.field for each in error.violations] == ["inputs[0]", "priority"]
    with pytest.raises(onnxserve.InvalidArgument):
        list(client.stream("refuse", inputs))


def test_an_error_of_a_function_reaches_the_caller_with_its_details(serve_functions, either):
    client = either.connect(serve_functions({"refuse": refuse}).target)
    with pytest.raises(onnxserve.InvalidArgument) as caught:
        client.predict("refuse", X, request_id="mine")
    error = caught.value
    assert (error.reason, error.request_id) == ("INVALID_REQUEST", "mine")
    assert error.violations == (
        onnxserve.FieldViolation("inputs[0]", "too large"),
        onnxserve.FieldViolation("priority", "too low"),
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            onnxserve.ResourceExhausted(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_delay=0.25),
            {"reason": "QUEUE_FULL", "retry_delay": 0.25},
        ),
        (onnxserve.ModelRunFailed(grpc.StatusCode.INTERNAL, "log of 0"), {"reason": "MODEL_RUN_FAILED"}),
        (
            onnxserve.PermissionDenied(
                grpc.StatusCode.PERMISSION_DENIED, "no", reason="NOT_YOURS", metadata={"owner": "a"}
            ),
            {"reason": "NOT_YOURS", "metadata": {"owner": "a", "request_id": "mine"}},
        ),
        (onnxserve.OnnxserveError(grpc.StatusCode.ABORTED, "later"), {"reason": ""}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_kind_of_error_is_the_same_at_the_caller(serve_functions, either, error, expected):
    def fail(_):
        raise error

    client = either.connect(serve_functions({"fail": fail}).target)
    with pytest.raises(type(error)) as caught:
        client.predict("fail", X, request_id="mine")
    assert type(caught.value) is type(error)
    assert (caught.value.code, caught.value.message) == (error.code, error.message)
    assert {name: getattr(caught.value, name) for name in expected} == expected


def test_another_exception_is_an_internal_error_and_is_logged(serve_functions, either, caplog):
    client = either.connect(serve_functions({"divide": lambda inputs: {"y": 1 // inputs["n"].item()}}).target)
    with pytest.raises(onnxserve.Internal, match="function of model 'divide' raised ZeroDivisionError") as caught:
        client.predict("divide", {"n": np.array(0)})
    assert caught.value.reason == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text
    assert client.predict("divide", {"n": np.array(1)})["y"].item() == 1


@pytest.mark.parametrize("result", [{"y": np.zeros(1, complex)}, {"y": [{}]}, None], ids=["complex", "object", "None"])
def test_a_result_that_cannot_be_sent_is_an_internal_error(serve_functions, either, result):
    client = either.connect(serve_functions({"wrong": lambda inputs: result}).target)
    with pytest.raises(onnxserve.Internal, match="function of model 'wrong' raised"):
        client.predict("wrong", X)


def test_unknown_names_are_refused_with_the_place(serve_functions, either):
    client = either.connect(serve_functions({"double": double}).target)
    with pytest.raises(onnxserve.NotFound, match="unknown model 'triple'; available models: double") as caught:
        client.predict("triple", X)
    assert (caught.value.reason, caught.value.resource) == ("MODEL_NOT_FOUND", "triple")
    with pytest.raises(onnxserve.NotFound, match="model 'double' has no version '2'; available versions: 1"):
        client.predict("double", X, version="2")
    with pytest.raises(onnxserve.InvalidArgument, match="unknown output 'z'; the model's outputs are 'y'") as wrong:
        client.predict("double", X, outputs=["y", "z"])
    assert wrong.value.violations[0].field == "outputs[1]"


def test_outputs_come_in_the_order_asked_for(serve_functions, either):
    client = either.connect(serve_functions({"m": lambda inputs: {"a": 1, "b": [2.5], "c": ["text"]}}).target)
    prediction = client.predict("m", {}, outputs=["c", "a"])
    assert [(name, array.tolist()) for name, array in prediction.items()] == [("c", ["text"]), ("a", 1)]


def test_a_function_that_takes_longer_than_the_deadline_is_not_waited_for(serve_functions, either):
    left = []
    server = serve_functions({"slow": wait_for_cancellation(left), "double": double})
    client = either.connect(server.target)
    with pytest.raises(onnxserve.DeadlineExceeded):
        client.predict("slow", X, timeout=0.1, request_id="mine")
    assert client.predict("double", X)["y"].tolist() == [[2, 4]]
    server.close()  # which waits for the function
    assert left == ["mine"]


def test_a_timeout_in_a_stream_is_that_of_its_request(serve_functions, either):
    left = []
    slow = wait_for_cancellation(left)
    client = either.connect(
        serve_functions({"m": lambda inputs: slow(inputs) if inputs["x"][0] == 1 else inputs}).target
    )
    inputs = [{"x": np.full(1, number)} for number in range(3)]
    first, error, last = client.stream("m", inputs, timeout=0.2, return_errors=True)
    assert (first["x"].item(), last["x"].item()) == (0, 2)
    assert (type(error), error.reason) == (onnxserve.DeadlineExceeded, "DEADLINE_EXCEEDED")


def test_a_function_learns_that_its_caller_has_cancelled(serve_functions):
    running, left = threading.Event(), []
    wait = wait_for_cancellation(left)
    server = serve_functions({"slow": lambda inputs: running.set() or wait(inputs), "double": double})

    async def call():
        async with onnxserve.AsyncClient(server.target) as client:
            task = asyncio.create_task(client.predict("slow", X, request_id="mine", timeout=None))
            assert await asyncio.to_thread(running.wait, FOR_EVER)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.predict("double", X)

    assert asyncio.run(call())["y"].tolist() == [[2, 4]]
    server.close()
    assert left == ["mine"]


def test_a_stream_that_is_left_cancels_the_request_that_runs(serve_functions):
    running, left = threading.Event(), []
    wait = wait_for_cancellation(left)

    def function(inputs):
        if inputs["x"][0] == 0:
            return inputs
        running.set()
        return wait(inputs)

    server = serve_functions({"m": function})
    with onnxserve.Client(server.target) as client:
        answers = client.stream("m", [{"x": np.full(1, number)} for number in range(2)], timeout=None)
        assert next(answers)["x"].item() == 0
        assert running.wait(FOR_EVER)
        answers.close()
    server.close()
    assert len(left) == 1


def test_a_function_knows_its_request(serve_functions, either):
    seen = []

    def look(inputs):
        seen.append(testing.current_request())
        return inputs

    client = either.connect(serve_functions({"look": testing.Model(function=look, version="7")}).target)
    client.predict("look", X, outputs=["x"], version="7", priority=-3, request_id="mine", timeout=50.0)
    client.predict("look", X, timeout=None)
    named, bare = seen
    assert (named.model, named.version, named.outputs, named.request_id, named.priority) == (
        "look", "7", ("x",), "mine", -3,
    )  # fmt: skip
    assert 0 < named.time_left <= 50
    assert bare.time_left == float("inf")
    with pytest.raises(LookupError, match="call this in a function that the server runs"):
        testing.current_request()


def test_a_prediction_can_be_made_up():
    prediction = testing.prediction({"y": [1.5, 2.5], "label": ["cat"]}, model="m", version="2")
    assert isinstance(prediction, onnxserve.Prediction)
    assert {name: array.tolist() for name, array in prediction.items()} == {"y": [1.5, 2.5], "label": ["cat"]}
    assert (prediction.model, prediction.version) == ("m", "2")
    client = types.SimpleNamespace(predict=lambda *_, **__: prediction)
    assert client.predict("m", {})["y"][0] == 1.5


def test_the_example_of_the_module_works():
    lines = [line.removeprefix("    ") for line in testing.__doc__.splitlines() if line.startswith("    ")]
    run("\n".join([*lines, "test_doubling()"]))


def test_the_example_of_the_readme_works():
    section = (ROOT / "README.md").read_text().partition("\n## Test\n")[2]
    run("import numpy as np\n" + section.split("```python\n")[1].split("```")[0])


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
