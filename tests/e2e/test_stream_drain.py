"""How streams end when their server stops: nothing is lost, nothing is run twice, and what is given up is given up."""

import threading
import time
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from onnxserve import Client, Unavailable
from onnxserve.tensor import decode, encode
from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.edge import onnxserve_v1
from onnxserve_server.edge import server as server_module
from support import zoo
from support.streaming import Line, cancel, error_of, expected, output, step
from support.waiting import until

MODELS = {"recurrent": zoo.recurrent(), "double": zoo.double(), "counter": zoo.slow_counter()}
CONFIGS = {
    "recurrent": "state: [{input: s, output: s_out}]",
    "counter": "state: [{input: count, output: count_out}]\nfeedback: {y: x}\nbatching: {max_rows: 1}",
}


def double(request_id="", model="double"):
    x = encode("x", np.ones((1, 3), np.float32))
    return inference.StreamRequest(predict={"model": model, "inputs": [x], "request_id": request_id})


def rest_of(line):
    """What still comes on a stream, and the code that it ends with."""
    answers = []
    with pytest.raises(grpc.RpcError) as raised:
        answers.extend(line.call)
    return answers, raised.value.code()


@pytest.fixture
def stopping(serve):
    """A server, a stream on it, and a function that begins to stop its streams."""
    server = serve(MODELS, CONFIGS)
    line = Line(server.stub)

    def stop():
        server.app.grpc.streams.stop()
        server.app.engine.drain()

    yield SimpleNamespace(server=server, line=line, stop=stop)
    line.close()
    line.call.cancel()


@pytest.fixture
def while_parsing(monkeypatch):
    """Have something done while the next message of a stream is parsed, which takes long for a large one."""

    def do(what):
        def decode_message(message):
            monkeypatch.undo()
            what()
            return onnxserve_v1.decode_message(message)

        monkeypatch.setattr(onnxserve_v1, "decode_message", decode_message)

    return do


def test_a_step_read_while_the_server_stops_is_in_the_state_that_is_handed_over_or_not_run(stopping, while_parsing):
    assert output(stopping.line.ask(step("a", 1, handoff=True)))[0, 0] == 3
    while_parsing(stopping.stop)
    stopping.line.send(step("a", 2))
    *answers, last = rest_of(stopping.line)[0]
    (state,) = (decode(tensor) for tensor in last.handoff.state.tensors)
    assert 3 * state[0, 0] == expected((1, 2))[len(answers)]


def test_a_request_that_comes_too_late_is_left_for_another_server(stopping, monkeypatch):
    """It is not answered with an error of its own: that would be one for its caller, who could not tell it apart."""
    read = onnxserve_v1.StreamedPredict.read

    def stop_and_read(*args):
        stopping.stop()
        return read(*args)

    assert output(stopping.line.ask(double()))[0, 0] == 2
    monkeypatch.setattr(onnxserve_v1.StreamedPredict, "read", stop_and_read)
    stopping.line.send(double(), double())
    assert rest_of(stopping.line) == ([], grpc.StatusCode.UNAVAILABLE)
    assert stopping.server.app.budget.in_flight == 0


def test_a_request_read_while_its_stream_is_cut_off_leaves_nothing(stopping, while_parsing):
    streams = stopping.server.app.grpc.streams
    assert output(stopping.line.ask(double()))[0, 0] == 2
    while_parsing(streams.abort)
    stopping.line.send(double())
    assert rest_of(stopping.line) == ([], grpc.StatusCode.UNAVAILABLE)
    until(lambda: not streams._live)
    assert stopping.server.app.budget.in_flight == 0


def test_a_cancellation_is_obeyed_while_the_server_stops_and_a_request_is_not(stopping):
    line = stopping.line
    endless = step("a", 20, model="counter", shape=(1, 1), handoff=True, predict={"request_id": "g"})
    endless.steps.max = 10_000
    line.ask(endless)
    stopping.stop()
    line.send(double("late"), cancel("g"))
    answers, code = rest_of(line)
    *_, cancelled, last = answers
    assert (cancelled.request_id, error_of(cancelled)[1]) == ("g", "CANCELLED")
    assert (last.handoff.sequence, code) == ("a", grpc.StatusCode.UNAVAILABLE)
    assert "late" not in {answer.request_id for answer in answers}


def test_a_server_that_stops_refuses_streams_as_long_as_they_come(stopping, monkeypatch):
    """The core would end them with a status of its own, which tells no client to go elsewhere."""
    monkeypatch.setattr(server_module, "_QUIET", 1.5)
    monkeypatch.setattr(server_module, "_MAX_REFUSING", 60)
    stopping.stop()
    refusing = threading.Thread(target=stopping.server.app.grpc.refuse)
    refusing.start()
    end = time.monotonic() + 4
    while time.monotonic() < end:
        answers, code = rest_of(Line(stopping.server.stub).send(double(), None))
        assert (answers, code) == ([], grpc.StatusCode.UNAVAILABLE)
    assert refusing.is_alive()
    refusing.join(30)
    assert not refusing.is_alive()


@pytest.fixture
def two(launch, edge):
    """A server, and a client and a sequence on it that go on over a second one."""
    flags = ("--edge", edge, "--drain-timeout", 0.5)
    servers = [
        launch({"counter": MODELS["counter"]}, *flags, configs={"counter": CONFIGS["counter"]}) for _ in range(2)
    ]
    target = "ipv4:" + ",".join(server.address for server in servers)
    with (
        Client(target, load_balancing="pick_first") as client,
        client.sequence("counter", outputs=["count_out"]) as sequence,
    ):
        yield SimpleNamespace(server=servers[0], client=client, sequence=sequence)


def count_of(answer):
    return answer["count_out"].item()


def steps(number):
    return {"x": np.full((1, 1), number, np.float32)}


def test_a_generation_beyond_the_drain_timeout_ends_and_its_sequence_goes_on_where_it_was(two):
    answers = two.sequence.generate(steps(20), max_steps=10_000)
    counts = [count_of(next(answers))]
    two.server.popen.terminate()
    with pytest.raises(Unavailable) as raised:
        counts.extend(map(count_of, answers))
    assert raised.value.reason == "DRAINING"
    assert two.server.stop(sig=0)[0] == 0
    counts.append(count_of(two.sequence.step(steps(0))))
    assert len(counts) > 2
    assert counts == [*range(1, len(counts) + 1)]


def test_a_step_beyond_the_drain_timeout_is_made_by_another_server(two):
    began = time.monotonic()
    assert count_of(two.sequence.step(steps(100))) == 1
    two_seconds = 200 / (time.monotonic() - began)
    killer = threading.Timer(0.2, two.server.popen.terminate)
    killer.start()
    assert count_of(two.sequence.step(steps(two_seconds))) == 2
    killer.join()
    assert two.server.stop(sig=0)[0] == 0


def test_a_generation_without_a_sequence_says_where_it_was_cut_off(two):
    answers = two.client.generate("counter", steps(20), max_steps=10_000)
    assert next(answers)
    two.server.popen.terminate()
    with pytest.raises(Unavailable) as raised:
        list(answers)
    assert raised.value.reason == "DRAINING"
    assert two.server.stop(sig=0)[0] == 0


def test_no_state_is_handed_over_that_has_a_step_in_it_whose_answer_cannot_be_sent(stopping):
    """It waits behind one that is cut off: sent without that one, it would be taken for its answer."""
    line, streams = stopping.line, stopping.server.app.grpc.streams
    assert output(line.ask(step("a", 1, handoff=True)))[0, 0] == 3
    line.send(step("b", 1e6, model="counter", shape=(1, 1), handoff=True), step("a", 2, handoff=True))
    (stream,) = streams._live
    until(lambda: len(stream._inflight.requests) == 2 and stream._inflight.requests[1].replies)
    stopping.stop()
    streams.cut_off(10)
    assert rest_of(line) == ([], grpc.StatusCode.UNAVAILABLE)
    assert stopping.server.app.budget.in_flight == 0
