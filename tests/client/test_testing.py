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
from support.either import Either

ROOT = Path(__file__).parents[2]
FOR_EVER = 60.0  # longer than any test waits
X = {"x": np.array([[1.0, 2.0]], np.float32)}


def double(inputs):
    return {"y": 2 * inputs["x"]}


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


class Counter:
    """Adds up what it is given."""

    def __init__(self):
        self.total = 0.0

    def __call__(self, inputs):
        self.total += inputs["n"].item()
        return {"total": np.array([self.total]), "next": inputs["n"] - 1}


@pytest.fixture(params=[onnxserve.Client, onnxserve.AsyncClient])
def either(request):
    """Makes a client of either kind, which is called like a blocking one."""
    with Either(request.param) as made:
        yield made


@pytest.fixture
def serve():
    servers = []

    def start(*arguments, **options):
        servers.append(testing.serve(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_a_function_answers_predict(serve, either):
    client = either.connect(serve({"double": double}).target)
    prediction = client.predict("double", X, request_id="mine")
    assert prediction["y"].tolist() == [[2, 4]]
    assert (prediction.model, prediction.version, prediction.request_id) == ("double", "1", "mine")
    assert prediction.receipt.provider == "function"


def test_a_function_answers_a_stream_in_order(serve, either):
    client = either.connect(serve({"double": double}).target)
    answers = client.stream("double", [{"x": np.full(1, number)} for number in range(100)], window=7)
    assert [answer["y"].item() for answer in answers] == [2 * number for number in range(100)]


def test_an_error_in_a_stream_answers_its_own_request(serve, either):
    client = either.connect(serve({"refuse": refuse}).target)
    inputs = [{"x": np.full(1, value)} for value in (-1, 1, -2)]
    first, error, last = client.stream("refuse", inputs, return_errors=True)
    assert (first["y"].item(), last["y"].item()) == (-2, -4)
    assert [each.field for each in error.violations] == ["inputs[0]", "priority"]
    with pytest.raises(onnxserve.InvalidArgument):
        list(client.stream("refuse", inputs))


def test_an_error_of_a_function_reaches_the_caller_with_its_details(serve, either):
    client = either.connect(serve({"refuse": refuse}).target)
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
def test_each_kind_of_error_is_the_same_at_the_caller(serve, either, error, expected):
    def fail(_):
        raise error

    client = either.connect(serve({"fail": fail}).target)
    with pytest.raises(type(error)) as caught:
        client.predict("fail", X, request_id="mine")
    assert type(caught.value) is type(error)
    assert (caught.value.code, caught.value.message) == (error.code, error.message)
    assert {name: getattr(caught.value, name) for name in expected} == expected


def test_another_exception_is_an_internal_error_and_is_logged(serve, either, caplog):
    client = either.connect(serve({"divide": lambda inputs: {"y": 1 // inputs["n"].item()}}).target)
    with pytest.raises(onnxserve.Internal, match="function of model 'divide' raised ZeroDivisionError") as caught:
        client.predict("divide", {"n": np.array(0)})
    assert caught.value.reason == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text
    assert client.predict("divide", {"n": np.array(1)})["y"].item() == 1


@pytest.mark.parametrize("result", [{"y": np.zeros(1, complex)}, {"y": [{}]}, None], ids=["complex", "object", "None"])
def test_a_result_that_cannot_be_sent_is_an_internal_error(serve, either, result):
    client = either.connect(serve({"wrong": lambda inputs: result}).target)
    with pytest.raises(onnxserve.Internal, match="function of model 'wrong' raised"):
        client.predict("wrong", X)


def test_unknown_names_are_refused_with_the_place(serve, either):
    client = either.connect(serve({"double": double}).target)
    with pytest.raises(onnxserve.NotFound, match="unknown model 'triple'; the models are 'double'") as caught:
        client.predict("triple", X)
    assert (caught.value.reason, caught.value.resource) == ("MODEL_NOT_FOUND", "triple")
    with pytest.raises(onnxserve.NotFound, match="unknown version '2'"):
        client.predict("double", X, version="2")
    with pytest.raises(onnxserve.InvalidArgument, match="unknown output 'z'; the model's outputs are 'y'") as wrong:
        client.predict("double", X, outputs=["y", "z"])
    assert wrong.value.violations[0].field == "outputs[1]"


def test_outputs_come_in_the_order_asked_for(serve, either):
    client = either.connect(serve({"m": lambda inputs: {"a": 1, "b": [2.5], "c": ["text"]}}).target)
    prediction = client.predict("m", {}, outputs=["c", "a"])
    assert [(name, array.tolist()) for name, array in prediction.items()] == [("c", ["text"]), ("a", 1)]


def wait_for_cancellation(left):
    """A function that goes on until nobody waits for it, and then notes that in a list."""

    def wait(inputs):
        request = testing.current_request()
        if request.cancelled.wait(FOR_EVER):
            left.append(request.request_id)
        return inputs

    return wait


def test_a_function_that_takes_longer_than_the_deadline_is_not_waited_for(serve, either):
    left = []
    server = serve({"slow": wait_for_cancellation(left), "double": double})
    client = either.connect(server.target)
    with pytest.raises(onnxserve.DeadlineExceeded):
        client.predict("slow", X, timeout=0.1, request_id="mine")
    assert client.predict("double", X)["y"].tolist() == [[2, 4]]
    server.close()  # which waits for the function
    assert left == ["mine"]


def test_a_timeout_in_a_stream_is_that_of_its_request(serve, either):
    left = []
    slow = wait_for_cancellation(left)
    client = either.connect(serve({"m": lambda inputs: slow(inputs) if inputs["x"][0] == 1 else inputs}).target)
    inputs = [{"x": np.full(1, number)} for number in range(3)]
    first, error, last = client.stream("m", inputs, timeout=0.2, return_errors=True)
    assert (first["x"].item(), last["x"].item()) == (0, 2)
    assert (type(error), error.reason) == (onnxserve.DeadlineExceeded, "DEADLINE_EXCEEDED")


def test_a_function_learns_that_its_caller_has_cancelled(serve):
    running, left = threading.Event(), []
    wait = wait_for_cancellation(left)
    server = serve({"slow": lambda inputs: running.set() or wait(inputs), "double": double})

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


def test_a_stream_that_is_left_cancels_the_request_that_runs(serve):
    running, left = threading.Event(), []
    wait = wait_for_cancellation(left)

    def function(inputs):
        if inputs["x"][0] == 0:
            return inputs
        running.set()
        return wait(inputs)

    server = serve({"m": function})
    with onnxserve.Client(server.target) as client:
        answers = client.stream("m", [{"x": np.full(1, number)} for number in range(2)], timeout=None)
        assert next(answers)["x"].item() == 0
        assert running.wait(FOR_EVER)
        answers.close()
    server.close()
    assert len(left) == 1


def test_closing_the_client_ends_its_calls_and_the_server_goes_on(serve):
    running, ended = threading.Event(), []
    wait = wait_for_cancellation([])
    server = serve({"slow": lambda inputs: running.set() or wait(inputs), "double": double})
    client = onnxserve.Client(server.target)

    def call():
        with pytest.raises(onnxserve.Cancelled):
            client.predict("slow", X, timeout=None)
        ended.append(True)

    thread = threading.Thread(target=call)
    thread.start()
    assert running.wait(FOR_EVER)
    client.close()
    thread.join(FOR_EVER)
    assert ended
    with onnxserve.Client(server.target) as other:
        assert other.predict("double", X)["y"].tolist() == [[2, 4]]


def test_closing_the_server_ends_what_runs_and_what_waits_for_a_thread(serve):
    running, outcomes = threading.Event(), []
    left = []
    wait = wait_for_cancellation(left)
    server = serve({"slow": lambda inputs: running.set() or wait(inputs)}, threads=1)

    def call(client):
        try:
            client.predict("slow", X, timeout=None)
        except onnxserve.OnnxserveError as error:
            outcomes.append(type(error))

    with onnxserve.Client(server.target, retries=0) as client:
        threads = [threading.Thread(target=call, args=(client,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert running.wait(FOR_EVER)
        server.close()
        for thread in threads:
            thread.join(FOR_EVER)
    assert len(outcomes) == 3
    assert {*outcomes} <= {onnxserve.Cancelled, onnxserve.Unavailable}
    assert left


def test_a_function_knows_its_request(serve, either):
    seen = []

    def look(inputs):
        seen.append(testing.current_request())
        return inputs

    client = either.connect(serve({"look": testing.Model(function=look, version="7")}).target)
    client.predict("look", X, outputs=["x"], version="7", priority=-3, request_id="mine", timeout=50.0)
    client.predict("look", X, timeout=None)
    named, bare = seen
    assert (named.model, named.version, named.outputs, named.request_id, named.priority) == (
        "look", "7", ("x",), "mine", -3,
    )  # fmt: skip
    assert 0 < named.time_left <= 50
    assert bare.time_left == float("inf")
    with pytest.raises(LookupError):
        testing.current_request()


def test_the_server_describes_its_models(serve, either):
    spec = onnxserve.TensorSpec(name="x", dtype="float32", shape=("batch", None, 3), labels=("a", "b", "c"))
    scalar = onnxserve.TensorSpec(name="s", dtype="string", shape=(), labels=(), batch_axis=None)
    described = testing.Model(
        function=double, version="3", inputs=[spec, scalar], outputs=[spec], max_rows=8, metadata={"author": "me"}
    )
    client = either.connect(serve({"plain": double, "described": described}).target)
    info, plain = client.models()
    assert info == client.model("described") == client.model("described", "3")
    assert (info.name, info.version, info.state, info.metadata) == ("described", "3", "READY", {"author": "me"})
    assert (info.inputs, info.outputs) == ((spec, scalar), (spec,))
    assert (info.batching.enabled, info.batching.max_rows) == (True, 8)
    assert (plain.inputs, plain.batching.enabled) == ((), False)
    with pytest.raises(onnxserve.NotFound):
        client.model("described", "4")


def test_the_server_is_ready_and_so_are_its_models(serve, either):
    client = either.connect(serve({"double": double}).target)
    assert client.ready()
    assert client.ready("double")
    assert not client.ready("triple")


def test_a_sequence_has_a_state_of_its_own(serve, either):
    client = either.connect(serve({"counter": testing.Model(sequence=Counter)}).target)
    with client.sequence("counter") as one, client.sequence("counter") as other:
        assert [one.step({"n": np.array([n])})["total"].item() for n in (1, 2, 3)] == [1, 3, 6]
        assert other.step({"n": np.array([5])})["total"].item() == 5
    assert client.predict("counter", {"n": np.array([9])})["total"].item() == 9


def test_a_generation_feeds_outputs_back(serve, either):
    model = testing.Model(sequence=Counter, feedback={"next": "n"})
    client = either.connect(serve({"counter": model}).target)
    answers = client.generate("counter", {"n": np.array([5])}, max_steps=3)
    assert [answer["total"].item() for answer in answers] == [5, 9, 12]
    answers = client.generate("counter", {"n": np.array([3])}, max_steps=100, stop=onnxserve.Stop("next", 1))
    assert [answer["next"].item() for answer in answers] == [2, 1]
    with pytest.raises(onnxserve.InvalidArgument, match=r"steps\.max"):
        list(client.generate("counter", {"n": np.array([3])}, max_steps=0))
    with pytest.raises(onnxserve.InvalidArgument, match=r"steps\.stop\.output"):
        list(client.generate("counter", {"n": np.array([3])}, max_steps=9, stop=onnxserve.Stop("nothing")))


def test_a_generation_that_is_broken_off_leaves_the_sequence_usable(serve, either):
    model = testing.Model(sequence=Counter, feedback={"next": "n"})
    client = either.connect(serve({"counter": model}).target)
    with client.sequence("counter") as sequence:
        answers = sequence.generate({"n": np.array([5])}, max_steps=5)
        assert next(answers)["next"].item() == 4
        answers.close()
        assert sequence.step({"n": np.array([7])})["next"].item() == 6


def test_what_a_function_without_state_cannot_do_is_said(serve, either):
    client = either.connect(serve({"double": double, "counter": testing.Model(sequence=Counter)}).target)
    with client.sequence("double") as stateless, client.sequence("counter") as counter:
        with pytest.raises(onnxserve.InvalidArgument, match="model 'double' has no state"):
            stateless.step(X)
        with pytest.raises(onnxserve.InvalidArgument, match="no snapshots"):
            counter.step({"n": np.array([1])}, snapshot=True)
    with pytest.raises(ValueError, match="either a function or a sequence"):
        testing.Model()


def test_a_prediction_can_be_made_up():
    prediction = testing.prediction({"y": [1.5, 2.5], "label": ["cat"]}, model="m", version="2")
    assert isinstance(prediction, onnxserve.Prediction)
    assert {name: array.tolist() for name, array in prediction.items()} == {"y": [1.5, 2.5], "label": ["cat"]}
    assert (prediction.model, prediction.version) == ("m", "2")
    client = types.SimpleNamespace(predict=lambda *_, **__: prediction)
    assert client.predict("m", {})["y"][0] == 1.5


def test_many_callers_are_answered_at_a_time(serve):
    together = threading.Barrier(8)

    def meet(inputs):
        together.wait(FOR_EVER)
        return inputs

    async def call():
        async with onnxserve.AsyncClient(server.target) as client:
            return await asyncio.gather(*(client.predict("meet", {"x": np.full(1, n)}) for n in range(8)))

    server = serve({"meet": meet}, threads=8)
    assert [answer["x"].item() for answer in asyncio.run(call())] == [*range(8)]


def test_closing_leaves_no_thread_and_frees_the_port():
    before = {*threading.enumerate()}
    with testing.serve({"double": double}) as server, onnxserve.Client(server.target) as client:
        client.predict("double", X)
    assert not [thread for thread in {*threading.enumerate()} - before if "onnxserve-testing" in thread.name]
    with onnxserve.Client(server.target, retries=0) as client, pytest.raises(onnxserve.Unavailable):
        client.predict("double", X)


def test_the_example_of_the_module_works():
    lines = [line.removeprefix("    ") for line in testing.__doc__.splitlines() if line.startswith("    ")]
    run("\n".join([*lines, "test_doubling()"]))


def test_the_example_of_the_readme_works():
    section = (ROOT / "README.md").read_text().partition("\n## Test\n")[2]
    run("import numpy as np\n" + section.split("```python\n")[1].split("```")[0])


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
