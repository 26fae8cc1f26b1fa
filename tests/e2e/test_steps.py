"""Requests of several steps: the server feeds its own answers back, and many such requests share runs."""

import threading
import time

import grpc
import numpy as np
import psutil
import pytest

from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2 as inference
from support import zoo
from support.streaming import Stub, cancel, error_of, output
from support.waiting import until

STATE = "state: [{input: total, output: total_out}]\nfeedback: {next: n}"
MODELS = {"countdown": zoo.countdown(), "double": zoo.double(), "plain": zoo.countdown(), "slow": zoo.slow()}
CONFIGS = {
    "countdown": STATE,
    "double": "feedback: {y: x}",
    "slow": "feedback: {y: x}\nbatching: {max_rows: 1}",
}


def generate(start, max_steps, *, model="countdown", name="n", shape=(1, 1), stop=None, sequence=None, **fields):
    request = inference.PredictRequest(model=model, inputs=[encode(name, np.full(shape, start, np.float32))], **fields)
    made = inference.StreamRequest(predict=request, steps=inference.Steps(max=max_steps))
    if stop is not None:
        made.steps.stop.CopyFrom(inference.Stop(**stop))
    if sequence is not None:
        made.sequence.id = sequence
    return made


def run(server, *requests):
    return list(server.stub.Stream(iter(requests), timeout=60))


def value(answer, name="next"):
    return output(answer, name).flat[0]


def test_each_step_is_answered_and_the_last_one_says_so(server):
    answers = run(server, generate(10, 4, request_id="g"))
    assert [value(answer) for answer in answers] == [9, 8, 7, 6]
    assert [(answer.step, answer.final) for answer in answers] == [(0, False), (1, False), (2, False), (3, True)]
    assert {answer.request_id for answer in answers} == {"g"}


def test_steps_equal_single_steps(server):
    single = run(
        server,
        *(
            inference.StreamRequest(
                predict=inference.PredictRequest(
                    model="countdown",
                    inputs=[encode("n", np.full((1, 1), n, np.float32))],
                    outputs=["next", "total_out"],
                ),
                sequence=inference.Sequence(id="s"),
            )
            for n in (9, 8, 7, 6, 5)
        ),
    )
    steps = run(server, generate(9, 5, sequence="s", outputs=["next", "total_out"]))
    assert [[value(a), value(a, "total_out")] for a in steps] == [[value(a), value(a, "total_out")] for a in single]


def test_a_stop_output_ends_it(server):
    answers = run(server, generate(5, 100, stop={"output": "done"}))
    assert [value(answer) for answer in answers] == [4, 3, 2, 1, 0]
    assert [answer.final for answer in answers] == [False] * 4 + [True]


def test_a_stop_value_ends_it_also_of_an_output_that_is_not_asked_for(server):
    answers = run(server, generate(50, 100, stop={"output": "next", "value": 47}, outputs=["done"]))
    assert len(answers) == 3
    assert [each.name for each in answers[0].response.outputs] == ["done"]


def test_the_state_of_a_named_sequence_is_kept_afterwards(server):
    request = generate(1, 1, sequence="s", outputs=["total_out"])
    *_, last = run(server, generate(3, 3, sequence="s"), request)
    assert value(last, "total_out") == 3 + 2 + 1 + 1


def test_a_model_without_state_takes_steps_too(server):
    answers = run(server, generate(1, 5, model="double", name="x", shape=(2, 3)))
    assert [value(answer, "y") for answer in answers] == [2, 4, 8, 16, 32]


def test_thirty_two_generations_of_different_length_run_as_one_changing_batch(server):
    lengths = [50 + 7 * i % 60 for i in range(32)]  # so long that many are there at a time
    calls = [
        server.stub.Stream(iter([generate(length, 200, stop={"output": "done"})]), timeout=60) for length in lengths
    ]
    rows = []
    for length, call in zip(lengths, calls, strict=True):
        answers = list(call)
        assert [value(answer) for answer in answers] == list(range(length - 1, -1, -1))
        rows += [answer.response.receipt.batch_rows for answer in answers]
    assert max(rows) > 4
    assert len(set(rows)) > 3


def test_answers_of_two_generations_on_one_stream_stay_apart(server):
    answers = run(server, generate(3, 3, request_id="a"), generate(30, 2, request_id="b"))
    assert [(answer.request_id, value(answer)) for answer in answers] == [
        ("a", 2), ("a", 1), ("a", 0), ("b", 29), ("b", 28),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (generate(1, 0), "steps.max"),
        (generate(1, 10_001), "steps.max"),
        (generate(1, 2, model="plain"), "steps"),
        (generate(1, 2, stop={"output": "nope"}), "steps.stop.output"),
        (generate(1, 2, name="total"), "inputs[0].name"),
        (generate(1, 2, shape=(1, 2)), "inputs[0].shape"),
    ],
)
def test_a_request_of_several_steps_that_cannot_run_is_refused_with_its_field(server, request_, field):
    (answer,) = run(server, request_)
    assert error_of(answer) == (3, "INVALID_REQUEST", [field, *error_of(answer)[2][1:]])


def test_a_cancellation_ends_it_between_or_in_a_step(server):
    requests, sent = threading.Semaphore(0), []

    def line():
        yield generate(1e3, 10_000, model="slow", name="x", request_id="g")
        requests.acquire(timeout=30)
        yield cancel("g")

    for answer in server.stub.Stream(line(), timeout=60):
        sent.append(answer)
        if len(sent) == 1:
            requests.release()
    assert error_of(sent[-1])[1] == "CANCELLED"
    assert len(sent) < 10_000
    server.wait_for("slow", lambda load: load.running_jobs == 0)


def test_its_timeout_ends_it(server):
    run(server, generate(20, 16, model="slow", name="x"))  # lest it is refused: of as many runs it knows how long
    answers = run(server, generate(20, 10_000, model="slow", name="x", timeout={"seconds": 2}))
    assert len(answers) > 1
    assert error_of(answers[-1])[1] == "DEADLINE_EXCEEDED"
    assert answers[-1].final


def test_a_caller_that_leaves_ends_it(server):
    call = server.stub.Stream(iter([generate(20, 10_000, model="slow", name="x")]), timeout=60)
    next(call)
    call.cancel()
    until(lambda: not server.app.grpc.streams._live)
    server.wait_for("slow", lambda load: load.running_jobs == 0 and load.queued_jobs == 0)


def test_who_does_not_read_stops_it_and_is_answered_in_full_afterwards(launch, edge):
    rows = 4000  # answers of 48 kB
    server = launch(
        {"double": zoo.double()}, "--edge", edge, "--stream-bytes", 1 << 20, configs={"double": "feedback: {y: x}"}
    )
    process = psutil.Process(server.popen.pid)
    with grpc.insecure_channel(server.address) as channel:
        request = generate(0, 2000, model="double", name="x", shape=(rows, 3))
        call = Stub(channel).Stream(iter([request]), timeout=120)
        next(call)
        end, largest = time.monotonic() + 3, 0
        before = process.memory_info().rss
        while time.monotonic() < end:
            largest = max(largest, process.memory_info().rss - before)
        assert largest < 64 << 20
        assert sum(1 for _ in call) == 1999
    assert server.stop()[0] == 0


@pytest.fixture
def narrow(serve):
    """A server whose streams may have 64 kB in hand."""
    configs = {
        "double": "feedback: {y: x}\nbatching: {max_queue_rows: 100000}",
        "countdown": f"{STATE}\nbatching: {{max_rows: 4000}}",
    }
    return serve({"double": zoo.double(), "countdown": zoo.countdown()}, configs, stream_bytes=1 << 16)


def test_what_a_generation_has_behind_it_does_not_hold_it_up(narrow):
    """The answers of the second fill the window, and cannot be sent before the first is over."""
    requests = (generate(0, 100, model="double", name="x", shape=(1000, 3), request_id=name) for name in "ab")
    answers = run(narrow, *requests)
    assert [answer.request_id for answer in answers] == ["a"] * 100 + ["b"] * 100


def test_a_generation_larger_than_the_window_goes_on(narrow):
    answers = run(narrow, generate(1, 5, model="double", name="x", shape=(10_000, 3)))
    assert [value(answer, "y") for answer in answers] == [2, 4, 8, 16, 32]


def test_its_timeout_ends_it_also_while_its_caller_does_not_read(narrow):
    def live():
        return sum(len(model.sequences) for model in narrow.app.engine.table.models())

    request = generate(1e6, 10_000, sequence="s", shape=(4000, 1), timeout={"seconds": 1})
    request.sequence.end = True
    call = narrow.stub.Stream(iter([request]), timeout=60)
    next(call)
    assert live() == 1
    until(lambda: live() == 0)
    *_, last = call
    assert error_of(last)[1] == "DEADLINE_EXCEEDED"
