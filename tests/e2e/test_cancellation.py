"""A caller may leave at any moment; nobody else notices, and what it held is given back."""

import dataclasses
import time

import grpc
import numpy as np
import pytest

from onnxserve import Prediction
from onnxserve.v1.inference_service_pb2_grpc import InferenceServiceStub
from support import zoo

ENDLESS = 200_000  # steps of zoo.slow(): minutes


MODELS = {"slow": zoo.slow(), "double": zoo.double(), "split": zoo.slow(), "gather": zoo.gather()}
CONFIGS = {
    "double": "batching: {max_rows: 4}",
    "split": "batching: {max_rows: 2}",
    "gather": "batching: {max_rows: 2}",
}


def column(steps, rows=1):
    return np.full((rows, 1), steps, np.float32)


def answers(calls):
    return [Prediction(call.result(timeout=60)) for call in calls]


def queue(server, *columns):
    """Send calls to a model that is occupied, each when the last one waits: they lie in the queue in this order."""
    calls = []
    for x in columns:
        calls.append(server.send("slow", x=x))
        server.wait_for("slow", lambda load: load.queued_jobs == len(calls))
    return calls


def running_together(server, *columns):
    """Return calls that run in one batch now."""
    with server.occupied():
        calls = queue(server, *columns)
    server.wait_for("slow", lambda load: (load.queued_jobs, load.running_jobs) == (0, len(columns)))
    return calls


def seconds_until_idle(server, model="slow"):
    """Return how long a request that comes now waits for the run before it to end."""
    start = time.monotonic()
    server.client.predict(model, {"x": column(0)}, timeout=60)
    return time.monotonic() - start


@pytest.mark.parametrize("leaving", [0, 1, 3])
def test_a_caller_that_leaves_while_queued_leaves_its_batch_mates_untouched(server, leaving):
    with server.occupied():
        calls = queue(server, column(1), column(2, rows=2), column(3), column(4))
        gone = calls.pop(leaving)
        rows = [1, 2, 1, 1]
        assert gone.cancel()
        load = server.wait_for("slow", lambda load: load.queued_jobs == 3)
        assert load.queued_rows == sum(rows) - rows[leaving]
        assert load.queued_bytes == 4 * load.queued_rows
    got = answers(calls)
    steps = [step for i, step in enumerate((1, 2, 3, 4)) if i != leaving]
    assert [set(prediction["y"].ravel()) for prediction in got] == [{step} for step in steps]
    assert {prediction.receipt.batch_requests for prediction in got} == {3}


def test_a_caller_that_leaves_while_running_leaves_its_batch_mates_untouched(server):
    first, gone, last = running_together(server, column(1), column(1500, rows=3), column(2))
    gone.cancel()
    server.wait_for("slow", lambda load: load.running_jobs == 2)
    got = answers([first, last])
    assert [prediction["y"].ravel().tolist() for prediction in got] == [[1], [2]]
    assert {(got.receipt.batch_requests, got.receipt.batch_rows) for got in got} == {(3, 5)}
    assert gone.cancelled()


def test_a_run_that_everybody_has_left_is_stopped(server):
    calls = running_together(server, column(ENDLESS), column(ENDLESS), column(ENDLESS))
    for call in calls[:2]:
        call.cancel()
    server.wait_for("slow", lambda load: load.running_jobs == 1)
    calls[2].cancel()
    server.wait_for("slow", lambda load: load.running_jobs == 0)
    assert seconds_until_idle(server) < 5


def test_callers_that_leave_in_the_queue_all_at_once_leave_nothing_behind(server):
    with server.occupied():
        for call in queue(server, column(1), column(ENDLESS), column(1, rows=50)):
            call.cancel()
        load = server.wait_for("slow", lambda load: load.queued_jobs == 0)
        assert (load.queued_rows, load.queued_bytes, load.running_jobs) == (0, 0, 1)
    assert seconds_until_idle(server) < 5


def test_a_deadline_of_the_call_that_passes_stops_the_run(server):
    call = server.send("slow", deadline=0.2, x=column(ENDLESS))
    assert call.exception(timeout=10).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert seconds_until_idle(server) < 5


def test_a_connection_that_breaks_counts_as_leaving(server):
    with grpc.insecure_channel(server.address) as channel:
        elsewhere = dataclasses.replace(server, stub=InferenceServiceStub(channel))
        call = elsewhere.send("slow", x=column(ENDLESS))
        server.wait_for("slow", lambda load: load.running_jobs == 1)
    assert call.done()
    server.wait_for("slow", lambda load: load.running_jobs == 0)
    assert seconds_until_idle(server) < 5


def test_a_split_request_whose_caller_leaves_is_stopped_and_unqueued(server):
    call = server.send("split", x=column(ENDLESS, rows=7))
    load = server.wait_for("split", lambda load: load.running_jobs == 1 and load.queued_jobs == 3)
    assert load.queued_rows == 5
    call.cancel()
    server.wait_for("split", lambda load: (load.queued_jobs, load.queued_rows, load.running_jobs) == (0, 0, 0))
    assert seconds_until_idle(server, "split") < 5


def test_a_split_request_fails_as_a_whole_and_frees_its_parts(server):
    call = server.send("gather", id=np.array([[1]] * 6 + [[99]] + [[2]] * 6))
    assert call.exception(timeout=10).code() == grpc.StatusCode.INVALID_ARGUMENT
    server.wait_for("gather", lambda load: (load.queued_jobs, load.running_jobs) == (0, 0))
    assert server.client.predict("gather", {"id": np.full((5, 1), 3)})["y"].ravel().tolist() == [30] * 5


def test_callers_that_leave_at_any_moment_leave_the_others_untouched(server):
    """Whatever hop the request is at: every third caller leaves right away, while the others' answers come."""
    for _ in range(10):
        calls = [server.send("double", x=np.full((1 + i % 7, 3), i, np.float32)) for i in range(60)]
        for call in calls[::3]:
            call.cancel()
        for i, call in enumerate(calls):
            if i % 3:
                y = Prediction(call.result(timeout=30))["y"]
                assert (y.shape, set(y.ravel())) == ((1 + i % 7, 3), {2 * i})
    server.wait_for("double", lambda load: (load.queued_jobs, load.queued_bytes, load.running_jobs) == (0, 0, 0))


def test_a_run_that_turns_out_long_after_short_ones_can_be_left_and_holds_up_nobody(serving, tmp_path):
    root = zoo.write(tmp_path, {"slow": zoo.slow(), "double": zoo.double()})
    with serving(root, edge="lane", inline_us=100_000) as server:
        for _ in range(20):
            server.client.predict("slow", {"x": column(0)})
        call = server.send("slow", x=column(ENDLESS))
        server.wait_for("slow", lambda load: load.running_jobs == 1)
        x = np.zeros((1, 3), np.float32)
        assert server.client.predict("double", {"x": x}, timeout=30)["y"].shape == (1, 3)
        call.cancel()
        server.wait_for("slow", lambda load: load.running_jobs == 0, timeout=30)
