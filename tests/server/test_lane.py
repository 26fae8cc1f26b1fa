"""The lane: it works with this grpcio, is given up where it does not, and lets go of every call, however that ends."""

import contextlib
import logging
import threading
import time

import grpc
import numpy as np
import pytest
from google.protobuf import duration_pb2
from grpc._cython import cygrpc

from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2
from onnxserve_server.edge import lane, self_test
from support import zoo
from support.waiting import until

PREDICT = "/onnxserve.v1.InferenceService/Predict"


class Stand:
    """Stands for a module or an object: some names are missing, some replaced, the others its own."""

    def __init__(self, original, missing=(), **replaced):
        self._original = original
        self._missing = missing
        self.__dict__.update(replaced)

    def __getattr__(self, name):
        if name in self._missing:
            raise AttributeError(f"no attribute {name!r}")
        return getattr(self._original, name)


def without(name):
    return lambda monkeypatch: monkeypatch.setattr(lane, "cygrpc", Stand(cygrpc, missing={name}))


def server_without_a_core(monkeypatch):
    def make(*arguments):
        return Stand(grpc.server(*arguments), missing={"_cy_server"})

    monkeypatch.setattr(self_test, "grpc", Stand(grpc, server=make))


def with_queue(queue):
    return lambda monkeypatch: monkeypatch.setattr(lane, "cygrpc", Stand(cygrpc, CompletionQueue=queue))


class QueueWithOtherArguments(cygrpc.CompletionQueue):
    def poll(self):
        return super().poll()


class QueueThatFails(cygrpc.CompletionQueue):
    def poll(self, deadline=None):
        raise RuntimeError("polling failed")


class QueueWithBrokenCalls(cygrpc.CompletionQueue):
    """Its calls refuse batches, as they would if grpcio changed what a batch may hold."""

    def poll(self, deadline=None):
        event = super().poll(deadline=deadline)
        if getattr(event, "call", None) is None:
            return event
        return Stand(event, call=Stand(event.call, start_server_batch=self._refuse))

    @staticmethod
    def _refuse(operations, tag):
        raise TypeError("start_server_batch() takes exactly 1 positional argument")


class QueueWithSilentCalls(QueueWithBrokenCalls):
    """Its calls take batches and never do anything."""

    @staticmethod
    def _refuse(operations, tag):
        pass


def answers_changed(monkeypatch):
    def send(message, flags):
        return cygrpc.SendMessageOperation(message + b"!", flags)

    monkeypatch.setattr(lane, "cygrpc", Stand(cygrpc, SendMessageOperation=send))


def metadata_lost(monkeypatch):
    def send(metadata, code, details, flags):
        return cygrpc.SendStatusFromServerOperation(None, code, details, flags)

    monkeypatch.setattr(lane, "cygrpc", Stand(cygrpc, SendStatusFromServerOperation=send))


FAULTS = {
    "CompletionQueue missing": without("CompletionQueue"),
    "CompletionType missing": without("CompletionType"),
    "ReceiveMessageOperation renamed": without("ReceiveMessageOperation"),
    "ReceiveCloseOnServerOperation renamed": without("ReceiveCloseOnServerOperation"),
    "SendInitialMetadataOperation renamed": without("SendInitialMetadataOperation"),
    "SendMessageOperation renamed": without("SendMessageOperation"),
    "SendStatusFromServerOperation renamed": without("SendStatusFromServerOperation"),
    "server without a core": server_without_a_core,
    "poll takes other arguments": with_queue(QueueWithOtherArguments),
    "poll fails": with_queue(QueueThatFails),
    "start_server_batch fails": with_queue(QueueWithBrokenCalls),
    "start_server_batch does nothing": with_queue(QueueWithSilentCalls),
    "answers come back changed": answers_changed,
    "metadata of errors is lost": metadata_lost,
}


def request(model, **inputs):
    tensors = [encode(name, array) for name, array in inputs.items()]
    return inference_service_pb2.PredictRequest(model=model, inputs=tensors)


def double(rows=1):
    return request("double", x=np.ones((rows, 3), np.float32)).SerializeToString()


def endless():
    return request("slow", x=np.full((1, 1), 1e6, np.float32)).SerializeToString()


@pytest.fixture
def on_lane(serving, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double(), "slow": zoo.slow()})
    with serving(root, edge="lane") as server:
        assert server.app.edge_name == "lane"
        yield server


@pytest.fixture
def channel(on_lane):
    with grpc.insecure_channel(on_lane.address) as channel:
        yield channel


def test_the_lane_works_with_this_grpcio():
    before = threading.active_count()
    self_test.run()
    until(lambda: threading.active_count() <= before)


def test_the_self_test_goes_through_no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    self_test.run()


# The lane's thread may end by a fault.
tolerant = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@tolerant
@pytest.mark.parametrize("break_it", FAULTS.values(), ids=FAULTS)
def test_the_self_test_finds_a_grpcio_that_does_not_carry_the_lane(monkeypatch, break_it):
    monkeypatch.setattr(self_test, "_TIMEOUT", 0.3)
    monkeypatch.setattr(lane, "_STOP_TIMEOUT", 0.3)
    break_it(monkeypatch)
    with pytest.raises(self_test.LaneError):
        self_test.run()


@tolerant
@pytest.mark.parametrize("fault", ["CompletionQueue missing", "server without a core", "start_server_batch fails"])
def test_where_the_lane_does_not_work_the_plain_edge_serves(serving, tmp_path, monkeypatch, caplog, fault):
    monkeypatch.setattr(self_test, "_TIMEOUT", 0.3)
    monkeypatch.setattr(lane, "_STOP_TIMEOUT", 0.3)
    FAULTS[fault](monkeypatch)
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    with serving(root, serves_on="plain", edge="lane") as server:
        assert server.client.predict("double", {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
    warnings = [record for record in caplog.records if record.name == "onnxserve_server.edge.server"]
    (warning,) = [record for record in warnings if record.levelno >= logging.WARNING]
    assert grpc.__version__ in warning.getMessage()
    assert "plain edge" in warning.getMessage()


def test_the_plain_edge_comes_without_a_warning_when_it_is_asked_for(serving, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lane, "cygrpc", None)  # nothing of the lane may be touched
    with serving(zoo.write(tmp_path / "models", {"double": zoo.double()}), edge="plain"):
        pass
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_call_without_a_message_is_ended_and_let_go(on_lane, channel):
    call = channel.stream_unary(PREDICT)
    error = call.future(iter(()), timeout=10).exception()
    assert error.code() not in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED)
    until(lambda: on_lane.app.grpc.edge.live_calls == 0)


def test_a_call_that_is_cancelled_before_its_message_is_let_go(on_lane, channel):
    never = threading.Event()

    def messages():
        never.wait(30)
        yield b""

    call = channel.stream_unary(PREDICT).future(messages())
    until(lambda: on_lane.app.grpc.edge.live_calls == 1)
    call.cancel()
    until(lambda: on_lane.app.grpc.edge.live_calls == 0)
    never.set()


def test_a_call_that_is_cancelled_while_it_runs_is_let_go_and_its_run_stopped(on_lane, channel):
    call = channel.unary_unary(PREDICT).future(endless())
    on_lane.wait_for("slow", lambda load: load.running_jobs == 1)
    assert on_lane.app.grpc.edge.live_calls == 1
    call.cancel()
    on_lane.wait_for("slow", lambda load: load.running_jobs == 0)
    until(lambda: on_lane.app.grpc.edge.live_calls == 0)


def test_the_calls_of_a_connection_that_breaks_are_let_go(on_lane):
    channel = grpc.insecure_channel(on_lane.address, options=[("grpc.use_local_subchannel_pool", 1)])
    calls = [channel.unary_unary(PREDICT).future(endless()) for _ in range(10)]
    until(lambda: on_lane.app.grpc.edge.live_calls == 10)
    channel.close()
    assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
    until(lambda: on_lane.app.grpc.edge.live_calls == 0)
    on_lane.wait_for("slow", lambda load: (load.running_jobs, load.queued_jobs) == (0, 0))


def test_calls_cancelled_at_any_moment_are_let_go(on_lane, channel):
    method = channel.unary_unary(PREDICT)
    for i in range(300):
        call = method.future(double())
        if i % 3:  # else it is cancelled at once
            threading.Event().wait(i % 10 * 1e-4)
        call.cancel()
    until(lambda: on_lane.app.grpc.edge.live_calls == 0)
    assert method(double(), timeout=10)


def test_more_calls_at_a_time_than_are_armed_are_all_answered(on_lane, channel):
    method = channel.unary_unary(PREDICT)
    calls = [method.future(double(i % 3 + 1), timeout=30) for i in range(40 * lane._ARMED)]
    for i, call in enumerate(calls):
        answer = inference_service_pb2.PredictResponse.FromString(call.result())
        assert list(answer.outputs[0].shape) == [i % 3 + 1, 3]
    until(lambda: on_lane.app.grpc.edge.live_calls == 0)


def test_a_handler_that_raises_does_not_end_the_lane(serving, tmp_path, monkeypatch, caplog):
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    with serving(root, edge="lane", drain_timeout=0) as server, grpc.insecure_channel(server.address) as channel:
        method = next(method for method in server.app.grpc.edge._methods if method.name == PREDICT)

        def broken(call, message):
            raise RuntimeError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr(method, "handler", broken)
            error = channel.unary_unary(PREDICT).future(double(), timeout=2).exception()
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert channel.unary_unary(PREDICT)(double(), timeout=10)
    assert "a defect" in caplog.text


def test_a_call_without_a_deadline_has_none(seen_deadline):
    assert seen_deadline(None) == float("inf")


def test_a_calls_deadline_is_seen(seen_deadline):
    began = time.time()
    deadline = seen_deadline(20)
    assert began + 19 < deadline <= time.time() + 20.5  # sent as a timeout, rounded up


@pytest.fixture
def seen_deadline(serve):
    """Make a call with a timeout; gives the deadline that the handler of either edge sees."""
    server = serve({"double": zoo.double()})
    seen = []
    submit = server.app.engine.submit

    def note(request, done):
        seen.append(request.deadline)
        return submit(request, done)

    def call(timeout):
        server.app.engine.submit = note
        server.client.predict("double", {"x": np.ones((1, 3), np.float32)}, timeout=timeout)
        return seen[0] - time.monotonic() + time.time() if seen[0] != float("inf") else seen[0]

    return call


def test_an_error_is_the_same_over_both_edges(serving, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double(), "gather": zoo.gather(), "slow": zoo.slow()})
    timed = request("slow", x=np.full((1, 1), 1e6, np.float32))
    timed.timeout.CopyFrom(duration_pb2.Duration(nanos=50_000_000))
    messages = [
        b"\xff",
        b"",
        request("nope").SerializeToString(),
        request("double", x=np.ones((1, 4), np.float32), z=np.ones(1)).SerializeToString(),
        request("gather", id=np.array([[99]])).SerializeToString(),
        timed.SerializeToString(),
    ]
    seen = {}
    for edge in ("lane", "plain"):
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(serving(root, edge=edge))
            method = stack.enter_context(grpc.insecure_channel(server.address)).unary_unary(PREDICT)
            rpc_errors = [method.future(message, timeout=30).exception() for message in messages]
            seen[edge] = [
                (error.code(), error.details(), list(error.trailing_metadata()), list(error.initial_metadata()))
                for error in rpc_errors
            ]
    assert all(any(key == "grpc-status-details-bin" for key, _ in metadata) for _, _, metadata, _ in seen["lane"])
    assert seen["lane"] == seen["plain"]
