"""How sequences begin and end, also with steps that cannot be run."""

import tracemalloc

import pytest
from google.protobuf.duration_pb2 import Duration

from onnxserve.v1 import inference_service_pb2 as inference
from onnxserve_server.engine import stream_sequences
from support import zoo
from support.streaming import Line, cancel, error_of, expected, output, step
from support.waiting import until

MODELS = {
    "recurrent": zoo.recurrent(),
    "counter": zoo.slow_counter(),
    "two": zoo.recurrent(("s", "t")),
    "summing": zoo.summing(),
}
CONFIGS = {
    "recurrent": "state: [{input: s, output: s_out}]",
    "two": "state: auto",
    "counter": "state: [{input: count, output: count_out}]\nbatching: {max_rows: 1}",
    "summing": "state: [{input: s, output: s_out}]",
}


@pytest.fixture
def stream(server):
    made = Line(server.stub)
    yield made
    made.close()
    made.call.cancel()
    until(lambda: not any(len(model.sequences) for model in server.app.engine.table.models()))


def live(server, model="recurrent"):
    return len(next(served for served in server.app.engine.table.models() if served.spec.name == model).sequences)


def claiming(rows, model="recurrent", columns=2):
    """A first step of eight bytes, or none, that claims so many rows."""
    request = step("a", 1, model=model, shape=(1, columns))
    request.predict.inputs[0].shape[0] = rows
    return request


def counted(stream, sequence="a"):
    """How many steps of a counter have been run, with the one that asks."""
    asked = step(sequence, 0, model="counter", shape=(1, 1), predict={"outputs": ["count_out"]})
    return output(stream.ask(asked), "count_out").item()


@pytest.mark.parametrize("rows", [300_000_000, 1 << 60])
def test_a_first_step_is_checked_before_there_is_a_state_of_so_many_rows(stream, rows):
    tracemalloc.start()
    try:
        answer = stream.ask(claiming(rows))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error_of(answer) == (3, "INVALID_REQUEST", ["inputs[0].data"])
    assert peak < 64 << 20


@pytest.mark.parametrize("rows", [300_000_000, 1 << 60])
def test_rows_without_bytes_do_not_begin_a_state_beyond_all_bounds(stream, rows):
    assert error_of(stream.ask(claiming(rows, "summing", columns=0)))[::2] == (3, ["inputs"])


def test_a_sequence_may_have_no_rows(stream):
    for _ in range(2):
        assert output(stream.ask(step("a", 1, shape=(0, 2)))).shape == (0, 2)
    assert error_of(stream.ask(step("a", 1)))[0] == 3


def test_after_a_first_step_that_failed_another_state_may_come(stream):
    first = stream.ask(step("a", 1, snapshot=True)).state
    second = stream.ask(step("a", 2, snapshot=True)).state
    assert error_of(stream.ask(step("b", 0, shape=(1, 3), state=first)))[2] == ["inputs[0].shape"]
    assert output(stream.ask(step("b", 3, state=second)))[0, 0] == expected((1, 2, 3))[-1]
    assert error_of(stream.ask(step("b", 3, state=second)))[2] == ["sequence.state"]


def test_after_a_first_step_that_failed_the_state_it_brought_stays(stream):
    state = stream.ask(step("a", 1, snapshot=True)).state
    stream.send(step("b", 0, shape=(1, 3), state=state), step("b", 2))
    assert error_of(next(stream))[2] == ["inputs[0].shape"]
    assert output(next(stream))[0, 0] == expected((1, 2))[-1]


def test_no_state_may_come_while_a_first_step_waits(server, stream):
    state = stream.ask(step("a", 0, model="counter", shape=(1, 1), snapshot=True)).state
    stream.send(step("b", 1e6, model="counter", shape=(1, 1), predict={"request_id": "first"}))
    server.wait_for("counter", lambda load: load.running_jobs == 1)
    stream.send(step("b", 0, model="counter", shape=(1, 1), state=state), cancel("first"))
    assert error_of(next(stream))[1] == "CANCELLED"
    assert error_of(next(stream))[2] == ["sequence.state"]


@pytest.mark.parametrize(
    "last",
    [
        step("a", 1, end=True, shape=(1, 5)),
        step("a", 1, end=True, model="two"),
        step("a", 1, end=True, state=inference.StateSnapshot(model="recurrent")),
        step("a", 1, end=True, predict={"request_id": "x" * 200}),
        step("a", 1, end=True, predict={"timeout": Duration(seconds=-1)}),
        step("a", 1, end=True, predict={"version": "9"}),
    ],
    ids=["shape", "model", "state", "request_id", "timeout", "version"],
)
def test_a_last_step_that_is_refused_frees_the_state_too(server, stream, last):
    stream.ask(step("a", 1))
    assert error_of(stream.ask(last))[0] == 3
    assert live(server) == 0
    assert output(stream.ask(step("a", 1)))[0, 0] == 3


def test_a_last_step_that_is_refused_takes_none_before_it_along(server, stream):
    stream.send(step("a", 1e6, model="counter", shape=(1, 1), predict={"request_id": "first"}))
    server.wait_for("counter", lambda load: load.running_jobs == 1)
    stream.send(
        step("a", 0, model="counter", shape=(1, 1), predict={"outputs": ["count_out"]}),
        step("a", 0, model="counter", shape=(1, 1), end=True, predict={"version": "9"}),
        cancel("first"),
    )
    assert error_of(next(stream))[1] == "CANCELLED"
    assert output(next(stream), "count_out").item() == 1
    assert error_of(next(stream))[2] == ["predict.version"]
    until(lambda: live(server, "counter") == 0)


def test_cancelled_together_none_is_run(stream):
    for turn in range(10):
        group = {"request_id": f"g{turn}"}
        name = str(turn)
        assert counted(stream, name) == 1
        stream.send(step(name, 1e6, model="counter", shape=(1, 1), predict=group))
        stream.send(
            *(step(name, 0, model="counter", shape=(1, 1), predict=group) for _ in range(10)), cancel(f"g{turn}")
        )
        assert [error_of(next(stream))[1] for _ in range(11)] == ["CANCELLED"] * 11
        assert counted(stream, name) == 2


def test_so_many_evicted_names_are_remembered_and_no_more(serve, monkeypatch):
    monkeypatch.setattr(stream_sequences, "_MAX_EVICTED", 2)
    config = "state: [{input: s, output: s_out}]\nsequences: {idle_ms: 50}"
    server = serve({"recurrent": zoo.recurrent()}, {"recurrent": config})
    stream = Line(server.stub)
    states = {name: stream.ask(step(name, 1, snapshot=True)).state for name in "ab"}
    until(lambda: live(server) == 0)
    assert error_of(stream.ask(step("c", 1)))[:2] == (8, "SEQUENCES_FULL")
    assert output(stream.ask(step("a", 2, state=states["a"])))[0, 0] == expected((1, 2))[-1]
    until(lambda: live(server) == 0)
    assert error_of(stream.ask(step("b", 1)))[1] == "SEQUENCE_EVICTED"
    assert error_of(stream.ask(step("b", 1, end=True)))[1] == "SEQUENCE_EVICTED"
    assert output(stream.ask(step("c", 1)))[0, 0] == 3
    stream.close()
