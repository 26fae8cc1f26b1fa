"""A deadline is answered when it passes, and what cannot be done in time is refused at once."""

import threading
import time

import grpc
import numpy as np
import pytest

from onnxserve import DeadlineExceeded
from onnxserve.errors import from_rpc_error
from onnxserve.tensor import DataType
from onnxserve_server import errors
from onnxserve_server.core import Request, WireTensor
from support import zoo
from support.waiting import until

PROMPT = 0.05  # seconds after its deadline by which a request is answered
TRIES = 3  # the machine may be busy with something else; the best counts


# Some tests need a model whose last runs they know.
MODELS = {"slow": zoo.slow(), "sluggish": zoo.slow(), "idle": zoo.slow()}
CONFIGS = {}


def column(steps, rows=1):
    return np.full((rows, 1), steps, np.float32)


@pytest.fixture(autouse=True)
def quick_runs(request):
    """Have the model's last runs be short: what is sent then waits or runs until its deadline, and is not refused."""
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        for _ in range(32):
            server.client.predict("slow", {"x": column(0)})


def error_of(call):
    return from_rpc_error(call.exception(timeout=30))


def answered_at(call):
    """Return, once the call has ended, the time at which it did."""
    times, ended = [], threading.Event()
    call.add_done_callback(lambda _: (times.append(time.monotonic()), ended.set()))
    assert ended.wait(30)
    return times[0]


def test_a_request_behind_a_long_run_is_answered_when_its_timeout_passes(server):
    late = []
    with server.occupied():
        for _ in range(TRIES):
            deadline = time.monotonic() + 0.2
            call = server.send("slow", timeout=0.2, x=column(1))
            late.append(answered_at(call) - deadline)
            assert error_of(call).reason == "DEADLINE_EXCEEDED"
        load = server.wait_for("slow", lambda load: load.queued_jobs == 0)
        assert (load.queued_rows, load.queued_bytes, load.running_jobs) == (0, 0, 1)
    assert 0 <= min(late) < PROMPT


def test_the_engine_ends_a_request_within_moments_of_its_deadline(server):
    late = []
    with server.occupied():
        for _ in range(TRIES):
            ended, outcomes = threading.Event(), []

            def done(outcome, ended=ended, outcomes=outcomes):
                outcomes.append((time.monotonic(), outcome))
                ended.set()

            deadline = time.monotonic() + 0.1
            tensor = WireTensor("x", DataType.DATA_TYPE_FLOAT, (1, 1), column(1).tobytes(), ())
            server.app.engine.submit(Request("slow", "", [tensor], deadline=deadline), done)
            server.app.engine.flush()
            assert ended.wait(30)
            assert isinstance(outcomes[0][1], errors.DeadlineExceeded)
            late.append(outcomes[0][0] - deadline)
    assert 0 <= min(late) < PROMPT


def test_a_request_in_a_long_run_is_answered_when_its_timeout_passes_and_the_run_stopped(server):
    late = []
    for _ in range(TRIES):
        deadline = time.monotonic() + 0.2
        call = server.send("slow", timeout=0.2, x=column(200_000))
        late.append(answered_at(call) - deadline)
        assert error_of(call).reason == "DEADLINE_EXCEEDED"
        server.client.predict("slow", {"x": column(0)}, timeout=20)  # minutes, if the run went on
    assert 0 <= min(late) < PROMPT


def test_a_batch_mate_without_a_deadline_is_answered_all_the_same(server):
    with server.occupied():
        calls = [server.send("slow", x=column(4000)), server.send("slow", timeout=1, x=column(1))]
        server.wait_for("slow", lambda load: load.queued_jobs == 2)
    assert isinstance(error_of(calls[1]), DeadlineExceeded)
    assert calls[0].result(timeout=30).receipt.batch_requests == 2


def test_the_deadline_of_the_call_holds_like_the_timeout_of_the_request(server):
    with server.occupied():
        call = server.send("slow", deadline=0.2, x=column(1))
        assert isinstance(error_of(call), DeadlineExceeded)
        server.wait_for("slow", lambda load: (load.queued_jobs, load.running_jobs) == (0, 1))


@pytest.mark.parametrize(("timeout", "deadline"), [(0.2, 30), (30, 0.2)])
def test_of_two_deadlines_the_earlier_one_holds(server, timeout, deadline):
    start = time.monotonic()
    with server.occupied():
        assert isinstance(
            error_of(server.send("slow", timeout=timeout, deadline=deadline, x=column(1))), DeadlineExceeded
        )
    assert 0.2 <= time.monotonic() - start < 10


def test_a_request_that_has_timed_out_when_it_comes_is_refused(server):
    error = error_of(server.send("slow", timeout=0, x=column(1)))
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


def test_what_a_busy_model_cannot_do_in_time_is_refused_at_once(server):
    receipt = server.client.predict("sluggish", {"x": column(400)}).receipt
    least = receipt.compute_us / 4e6
    with server.occupied("sluggish"):
        error = error_of(server.send("sluggish", timeout=least, x=column(1)))
        assert isinstance(error, DeadlineExceeded)
        assert error.message.startswith("the deadline cannot be met")
        assert int(error.metadata["needed_us"]) > least * 1e6
        patient = server.send("sluggish", timeout=30, x=column(1))
        server.wait_for("sluggish", lambda load: load.queued_jobs == 1)
    assert patient.result(timeout=30).outputs


def test_an_idle_model_refuses_what_its_runs_take_too_long_for_and_tries_again_after_a_while(server):
    runs = [server.client.predict("idle", {"x": column(400)}).receipt.compute_us for _ in range(2)]

    def error():
        return server.send("idle", timeout=min(runs) / 4e6, x=column(0)).exception(timeout=30)

    assert from_rpc_error(error()).message.startswith("the deadline cannot be met")
    until(lambda: error() is None, timeout=60)


def test_what_waits_until_after_its_deadline_is_never_run(server):
    """It is answered while the run before it goes on, and the run after that has one member only."""
    with server.occupied():
        expiring = server.send("slow", timeout=0.1, x=column(1))
        waiting = server.send("slow", x=column(1))
        assert isinstance(error_of(expiring), DeadlineExceeded)
        server.wait_for("slow", lambda load: load.queued_jobs == 1)
    assert waiting.result(timeout=30).receipt.batch_requests == 1
