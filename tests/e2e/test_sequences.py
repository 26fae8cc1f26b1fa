"""Sequences: the server keeps their state, runs their steps in order, and many of them at a time."""

import subprocess
import sys

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2 as inference
from support import zoo
from support.streaming import Line, Stub, cancel, error_of, expected, output, step
from support.waiting import until

MODELS = {
    "recurrent": zoo.recurrent(),
    "counter": zoo.slow_counter(),
    "double": zoo.double(),
    "two": zoo.recurrent(("s", "t")),
}
CONFIGS = {
    "recurrent": "state: [{input: s, output: s_out}]",
    "two": "state: auto",
    "counter": "state: [{input: count, output: count_out, initial: 5}]\nbatching: {max_rows: 1}",
}


@pytest.fixture
def line(server):
    lines = []

    def open_line():
        lines.append(Line(server.stub))
        return lines[-1]

    yield open_line
    for made in lines:
        made.close()
        made.call.cancel()
    until(lambda: not any(len(model.sequences) for model in server.app.engine.table.models()))


def live(server, model="recurrent"):
    return len(next(served for served in server.app.engine.table.models() if served.spec.name == model).sequences)


def test_state_is_kept_between_steps_and_does_not_travel(line):
    stream = line()
    answers = [stream.ask(step("a", value)) for value in (1, 2, 3)]
    assert [output(answer).tolist() for answer in answers] == [[[each] * 2] for each in expected((1, 2, 3))]
    assert [each.name for each in answers[0].response.outputs] == ["y"]
    assert not answers[0].HasField("state")


def test_sixty_four_sequences_on_eight_streams_equal_solo_runs_and_share_runs(server):
    values = np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32)

    def requests(stream):
        for t in range(20):
            for number in range(stream, 64, 8):
                yield step(str(number), values[number, t])

    calls = [server.stub.Stream(requests(stream), timeout=60) for stream in range(8)]
    shared = 0
    for stream, call in enumerate(calls):
        answers = list(call)
        for i, number in enumerate(range(stream, 64, 8)):
            got = [output(answer)[0, 0] for answer in answers[i::8]]
            np.testing.assert_allclose(got, expected(values[number]), rtol=1e-5, atol=1e-5)
        shared += sum(answer.response.receipt.batch_requests > 1 for answer in answers)
    assert shared > 0
    until(lambda: live(server) == 0)


def test_steps_that_are_sent_ahead_run_in_order_and_never_together(line):
    stream = line().send(*(step("a", value) for value in range(200)))
    answers = [next(stream.call) for _ in range(200)]
    np.testing.assert_allclose([output(answer)[0, 0] for answer in answers], expected(range(200)), rtol=1e-5)
    assert {answer.response.receipt.batch_requests for answer in answers} == {1}


def test_sequences_of_one_stream_do_not_mix_and_stateless_requests_go_beside_them(line):
    stream = line()
    assert output(stream.ask(step("a", 1)))[0, 0] == 3
    assert output(stream.ask(step("b", 10)))[0, 0] == 30
    alone = inference.StreamRequest(
        predict=inference.PredictRequest(model="double", inputs=[encode("x", np.ones((1, 3), np.float32))])
    )
    assert output(stream.ask(alone)).tolist() == [[2, 2, 2]]
    assert output(stream.ask(step("a", 1)))[0, 0] == 4.5


def test_the_same_name_on_another_stream_is_another_sequence(line):
    assert output(line().ask(step("a", 1)))[0, 0] == 3
    assert output(line().ask(step("a", 1)))[0, 0] == 3


def test_a_sequence_may_have_several_rows(line):
    stream = line()
    assert output(stream.ask(step("a", 1, shape=(5, 2)))).shape == (5, 2)
    assert output(stream.ask(step("a", 1, shape=(5, 2))))[4, 1] == 4.5
    assert error_of(stream.ask(step("a", 1, shape=(4, 2))))[0] == 3
    assert output(stream.ask(step("a", 0, shape=(5, 2))))[0, 0] == 2.25


def test_a_state_begins_as_model_yaml_says(line):
    stream = line()
    answer = stream.ask(step("a", 0, model="counter", shape=(1, 1), predict={"outputs": ["count_out"]}))
    assert output(answer, "count_out").tolist() == [[6]]


def test_names_that_look_like_states_are_recognised_when_asked(line, server):
    spec = next(served.spec for served in server.app.engine.table.models() if served.spec.name == "two")
    assert [(pair.input.name, pair.output.name) for pair in spec.state] == [("s", "s_out"), ("t", "t_out")]
    stream = line()
    stream.ask(step("a", 1, model="two"))
    assert output(stream.ask(step("a", 1, model="two")))[0, 0] == 4.5


def test_a_stateful_model_still_takes_its_state_as_an_input(server):
    x = np.ones((1, 2), np.float32)
    assert server.client.predict("recurrent", {"x": x, "s": 2 * x})["s_out"].tolist() == [[2, 2]]


def test_end_frees_a_sequence_and_its_name(line, server):
    stream = line()
    stream.ask(step("a", 1))
    assert live(server) == 1
    assert output(stream.ask(step("a", 1, end=True)))[0, 0] == 4.5
    until(lambda: live(server) == 0)
    assert output(stream.ask(step("a", 1)))[0, 0] == 3


def test_the_end_of_the_stream_frees_its_sequences(line, server):
    stream = line()
    stream.ask(step("a", 1))
    stream.close()
    assert list(stream.call) == []
    until(lambda: live(server) == 0)


def test_a_thousand_streams_that_break_off_leave_no_sequence(server):
    for turn in range(1000):
        call = server.stub.Stream(iter([step("a", 1), step("b", 1), step("a", 2)]), timeout=30)
        if turn % 2:
            next(call)
        call.cancel()
    until(lambda: live(server) == 0 and not server.app.grpc.streams._live)


CALLER = """
import sys
import numpy as np
import onnxserve

client = onnxserve.Client(sys.argv[1])
sequences = [client.sequence("recurrent") for _ in range(10)]
while True:
    for sequence in sequences:
        sequence.step({"x": np.ones((1, 2), np.float32)})
    print("stepped", flush=True)
"""


def test_a_caller_that_is_killed_leaves_no_sequence(server):
    for _ in range(3):
        caller = subprocess.Popen([sys.executable, "-c", CALLER, server.address], stdout=subprocess.PIPE, text=True)
        assert caller.stdout.readline() == "stepped\n"
        assert live(server) == 10
        caller.kill()
        caller.communicate()
        until(lambda: live(server) == 0 and not server.app.grpc.streams._live)


def test_a_snapshot_starts_another_sequence_where_this_one_stands(line):
    stream, other = line(), line()
    stream.ask(step("a", 1))
    snapshot = stream.ask(step("a", 2, snapshot=True))
    assert [tensor.name for tensor in snapshot.state.tensors] == ["s"]
    assert (snapshot.state.model, snapshot.state.version) == ("recurrent", "1")
    assert output(other.ask(step("z", 3, state=snapshot.state)))[0, 0] == output(stream.ask(step("a", 3)))[0, 0]


def test_a_snapshot_that_does_not_fit_is_refused(line):
    stream = line()
    good = stream.ask(step("a", 1, snapshot=True)).state
    for change, field in [
        (lambda state: setattr(state, "model", "two"), "sequence.state.model"),
        (lambda state: state.tensors[0].shape.__setitem__(1, 3), "sequence.state.tensors[0].shape"),
        (lambda state: setattr(state.tensors[0], "name", "q"), "sequence.state.tensors[0].name"),
        (lambda state: setattr(state.tensors[0], "data", b"1234"), "sequence.state.tensors[0].data"),
        (lambda state: state.ClearField("tensors"), "sequence.state.tensors"),
    ]:
        bad = inference.StateSnapshot()
        bad.CopyFrom(good)
        change(bad)
        code, reason, fields = error_of(stream.ask(step("b", 1, state=bad)))
        assert (code, reason, fields[0]) == (3, "INVALID_REQUEST", field)
    assert error_of(stream.ask(step("a", 1, state=good)))[2] == ["sequence.state"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (step("", 1), "sequence.id"),
        (step("x" * 200, 1), "sequence.id"),
        (step("b", 1, model="double", shape=(1, 3)), "sequence"),
        (step("a", 1, model="two"), "predict.model"),
        (step("a", 1, name="s"), "inputs[0].name"),
        (step("a", 1, shape=(1, 3)), "inputs[0].shape"),
    ],
)
def test_a_step_that_cannot_be_is_told_and_changes_nothing(line, request_, field):
    stream = line()
    stream.ask(step("a", 1))
    code, _, fields = error_of(stream.ask(request_))
    assert (code, fields[0]) == (3, field)
    assert output(stream.ask(step("a", 1)))[0, 0] == 4.5


def test_a_cancelled_step_leaves_the_state_as_it_was(server, line):
    stream = line()
    slow = {"request_id": "slow"}
    stream.ask(step("a", 0, model="counter", shape=(1, 1)))
    stream.send(step("a", 1e6, model="counter", shape=(1, 1), predict=slow))
    server.wait_for("counter", lambda load: load.running_jobs == 1)
    waiting = step("a", 0, model="counter", shape=(1, 1), predict={"request_id": "waiting"})
    stream.send(waiting, *(cancel(name) for name in ("waiting", "slow")))
    assert [error_of(next(stream.call))[1], error_of(next(stream.call))[1]] == ["CANCELLED", "CANCELLED"]
    answer = stream.ask(step("a", 0, model="counter", shape=(1, 1), predict={"outputs": ["count_out"]}))
    assert output(answer, "count_out").tolist() == [[7]]


def test_an_expired_step_leaves_the_state_as_it_was(line):
    stream = line()
    stream.ask(step("a", 0, model="counter", shape=(1, 1)))
    late = stream.ask(step("a", 1e6, model="counter", shape=(1, 1), predict={"timeout": {"nanos": 50_000_000}}))
    assert error_of(late)[1] == "DEADLINE_EXCEEDED"
    answer = stream.ask(step("a", 0, model="counter", shape=(1, 1), predict={"outputs": ["count_out"]}))
    assert output(answer, "count_out").tolist() == [[7]]


def test_an_idle_sequence_is_evicted_and_its_caller_told(serve):
    config = "state: [{input: s, output: s_out}]\nsequences: {idle_ms: 50}"
    server = serve({"recurrent": zoo.recurrent()}, {"recurrent": config})
    stream = Line(server.stub)
    snapshot = stream.ask(step("a", 1, snapshot=True)).state
    until(lambda: live(server) == 0)
    assert error_of(stream.ask(step("a", 1)))[:2] == (9, "SEQUENCE_EVICTED")
    assert error_of(stream.ask(step("a", 1)))[:2] == (9, "SEQUENCE_EVICTED")
    assert output(stream.ask(step("a", 1, state=snapshot)))[0, 0] == 4.5
    until(lambda: live(server) == 0)
    assert error_of(stream.ask(step("a", 1, end=True)))[:2] == (9, "SEQUENCE_EVICTED")
    assert output(stream.ask(step("a", 1)))[0, 0] == 3
    stream.close()


def test_the_start_warns_of_more_sequences_than_memory_holds(serve, monkeypatch, caplog):
    monkeypatch.setattr("onnxserve_server.app.memory_left", lambda: 1 << 30)
    config = f"state: [{{input: s, output: s_out}}]\nsequences: {{max: {2**31 - 1}}}"
    serve({"recurrent": zoo.recurrent()}, {"recurrent": config})
    assert "lower sequences.max in its model.yaml" in caplog.text


def test_only_so_many_sequences_are_live(serve):
    config = "state: [{input: s, output: s_out}]\nsequences: {max: 3}"
    server = serve({"recurrent": zoo.recurrent()}, {"recurrent": config})
    stream = Line(server.stub)
    for name in "abc":
        stream.ask(step(name, 1))
    refused = stream.ask(step("d", 1))
    assert error_of(refused)[:2] == (8, "SEQUENCES_FULL")
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in refused.error.details)
    stream.ask(step("a", 1, end=True))
    assert output(stream.ask(step("d", 1)))[0, 0] == 3
    stream.close()


def test_a_server_that_stops_hands_over_the_states_that_are_asked_for(launch, edge):
    servers = [launch(MODELS, "--edge", edge, configs=CONFIGS) for _ in range(2)]
    channels = [grpc.insecure_channel(server.address) for server in servers]
    first, second = (Line(Stub(channel)) for channel in channels)
    for name in ("a", "b"):
        first.ask(step(name, 1, handoff=True))
    servers[0].popen.terminate()
    states = {}
    with pytest.raises(grpc.RpcError) as raised:
        for answer in first.call:
            states[answer.handoff.sequence] = answer.handoff.state
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert states.keys() == {"a", "b"}
    assert output(second.ask(step("a", 1, state=states["a"])))[0, 0] == 4.5
    second.close()
    first.close()
    assert [server.stop()[0] for server in servers] == [0, 0]
    for channel in channels:
        channel.close()


def test_a_server_that_stops_goes_on_with_sequences_that_cannot_move(launch, edge):
    server = launch(MODELS, "--edge", edge, configs=CONFIGS)
    with grpc.insecure_channel(server.address) as channel:
        stream = Line(Stub(channel))
        stream.ask(step("a", 1))
        server.popen.terminate()
        until(lambda: "draining" in server.log.read_text())
        until(lambda: error_of(stream.ask(step("new", 1)))[1] == "DRAINING")
        assert output(stream.ask(step("a", 1)))[0, 0] == 4.5
        assert output(stream.ask(step("a", 1, end=True)))[0, 0] == 5.25
        with pytest.raises(grpc.RpcError) as raised:
            next(stream.call)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        stream.close()
    assert server.popen.wait(30) == 0
