"""More than a model can hold is refused at once, with the time after which to try again."""

import time

import grpc
import numpy as np
import pytest

from onnxserve import InvalidArgument, Prediction, ResourceExhausted
from onnxserve.errors import from_rpc_error
from support import zoo

# Each queue takes 8 rows, of 4 bytes each, bounded in one way or the other.
MODELS = {"rows": zoo.slow(), "bytes": zoo.slow(), "split": zoo.slow(), "double": zoo.double(), "narrow": zoo.double()}
CONFIGS = {
    "rows": "batching: {max_queue_rows: 8}",
    "bytes": "batching: {max_queue_bytes: 32}",
    "split": "batching: {max_rows: 2, max_queue_rows: 8}",
    "narrow": "batching: {max_rows: 4, max_queue_rows: 8}",
}


@pytest.fixture(params=["rows", "bytes"])
def model(request):
    """A model whose queue takes 8 rows."""
    return request.param


def column(rows, steps=1):
    return np.full((rows, 1), steps, np.float32)


def fill(server, model, rows):
    """Have so many rows wait, one a request."""
    calls = [server.send(model, x=column(1)) for _ in range(rows)]
    server.wait_for(model, lambda load: load.queued_rows == rows)
    return calls


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(server, model):
    with server.occupied(model):
        waiting = fill(server, model, 8)
        start = time.monotonic()
        refused = server.send(model, x=column(1)).exception(timeout=30)
        assert time.monotonic() - start < 5  # the run before goes on for minutes
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        error = from_rpc_error(refused)
        assert (error.reason, error.metadata["queued_rows"], error.metadata["queued_bytes"]) == (
            "QUEUE_FULL",
            "8",
            "32",
        )
        assert error.retry_delay >= 0.01
        assert dict(refused.trailing_metadata())["grpc-retry-pushback-ms"] == str(round(error.retry_delay * 1e3))
        assert server.load(model).queued_rows == 8
    assert all(Prediction(call.result(timeout=30))["y"].item() == 1 for call in waiting)


def test_the_client_raises_resource_exhausted(server, model):
    with server.occupied(model):
        waiting = fill(server, model, 8)
        with pytest.raises(ResourceExhausted) as error:
            server.client.predict(model, {"x": column(1)})
        assert error.value.retry_delay is not None
    for call in waiting:
        call.result(timeout=30)


def test_what_fits_beside_a_refused_request_is_taken(server, model):
    with server.occupied(model):
        waiting = fill(server, model, 6)
        assert server.send(model, x=column(3)).exception(timeout=30).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting.append(server.send(model, x=column(2)))
        server.wait_for(model, lambda load: load.queued_rows == 8)
    assert [len(Prediction(call.result(timeout=30))["y"]) for call in waiting] == [1] * 6 + [2]


def test_a_caller_that_leaves_makes_room(server, model):
    with server.occupied(model):
        waiting = fill(server, model, 8)
        waiting.pop().cancel()
        server.wait_for(model, lambda load: load.queued_rows == 7)
        waiting.append(server.send(model, x=column(1)))
        server.wait_for(model, lambda load: load.queued_rows == 8)
    for call in waiting:
        call.result(timeout=30)


def test_the_model_recovers_by_itself_when_the_load_falls(server, model):
    with server.occupied(model):
        waiting = fill(server, model, 8)
        refused = [server.send(model, x=column(1)) for _ in range(30)]
        assert {call.exception(timeout=30).code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    for call in waiting:
        call.result(timeout=30)
    assert server.client.predict(model, {"x": column(8)})["y"].shape == (8, 1)


def test_a_request_that_could_never_fit_is_the_callers_mistake(server, model):
    with pytest.raises(InvalidArgument) as error:
        server.client.predict(model, {"x": column(9)})
    assert [violation.field for violation in error.value.violations] == ["inputs"]
    assert server.client.predict(model, {"x": column(8)})["y"].shape == (8, 1)


def test_a_split_request_that_does_not_fit_leaves_nothing_behind(server):
    with server.occupied("split"):
        waiting = fill(server, "split", 3)
        refused = server.send("split", x=column(7))
        assert refused.exception(timeout=30).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        load = server.load("split")
        assert (load.queued_jobs, load.queued_rows, load.queued_bytes) == (3, 3, 12)
        waiting.append(server.send("split", x=column(5)))
        server.wait_for("split", lambda load: load.queued_rows == 8)
    assert [len(Prediction(call.result(timeout=30))["y"]) for call in waiting] == [1, 1, 1, 5]


def test_one_full_model_does_not_hold_up_another(server):
    with server.occupied("rows"):
        waiting = fill(server, "rows", 8)
        assert server.client.predict("double", {"x": np.ones((2, 3), np.float32)})["y"].sum() == 12
    for call in waiting:
        call.result(timeout=30)


def test_under_a_storm_every_call_is_answered_or_refused(server):
    calls = [server.send("narrow", x=np.full((1 + i % 3, 3), i, np.float32)) for i in range(1000)]
    answered = 0
    for i, call in enumerate(calls):
        if call.exception(timeout=30) is None:
            assert (Prediction(call.result())["y"] == 2 * i).all()
            answered += 1
        else:
            assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answered > 0


def test_strings_and_requests_without_rows_count_in_the_queue(serving, tmp_path):
    models = {"slow": zoo.slow(), "text": zoo.identity(8)}
    configs = {"slow": "batching: {max_queue_rows: 2}", "text": "batching: {max_queue_bytes: 1000}"}
    with serving(zoo.write(tmp_path / "models", models, configs), edge="lane", inline_us=0) as server:
        with pytest.raises(InvalidArgument, match="can ever hold"):
            server.client.predict("text", {"x": np.full((20, 2), "", object)})
        with server.occupied("slow"):
            calls = [server.send("slow", x=np.zeros((0, 1), np.float32)) for _ in range(3)]
            refused = from_rpc_error(calls[2].exception(timeout=10))
            assert isinstance(refused, ResourceExhausted)


def test_a_burst_far_beyond_what_waits_for_a_thread_is_answered_by_the_server_itself(serving, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double()}, {"double": "batching: {max_queue_rows: 1000000}"})
    with serving(root, edge="lane") as server:
        calls = [server.send("double", x=np.ones((1, 3), np.float32)) for _ in range(8_000)]
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}


def test_what_waits_for_one_model_leaves_less_room_for_another(serve):
    server = serve({"a": zoo.slow(), "b": zoo.slow()}, all_queue_bytes=32, inline_us=0)
    with server.occupied("a"), server.occupied("b"):
        waiting = fill(server, "a", 8)
        refused = from_rpc_error(server.send("b", x=column(1)).exception(timeout=30))
        assert (refused.reason, refused.metadata["queued_bytes"]) == ("QUEUE_FULL", "32")
        assert "for all models" in refused.message
        waiting.pop().cancel()
        server.wait_for("a", lambda load: load.queued_rows == 7)
        waiting.append(server.send("b", x=column(1)))
        server.wait_for("b", lambda load: load.queued_rows == 1)
    for call in waiting:
        call.result(timeout=30)


def test_a_request_that_is_alone_may_have_more_than_all_may(serve):
    server = serve({"a": zoo.slow()}, all_queue_bytes=32, inline_us=0)
    with server.occupied("a"):
        large = server.send("a", x=column(9))
        server.wait_for("a", lambda load: load.queued_rows == 9)
        assert server.send("a", x=column(1)).exception(timeout=30).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(Prediction(large.result(timeout=30))["y"]) == 9


def test_bounds_beyond_the_memory_are_warned_of(serve, caplog):
    serve({"double": zoo.double()}, all_queue_bytes=2**50)
    assert f"queued requests are limited to {2**30} MiB" in caplog.text
    assert "lower all_queue_bytes and max_message_bytes" in caplog.text
