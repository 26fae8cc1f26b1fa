"""Start, drain and stop of a server in a process of its own: nothing that was accepted is lost on the way out."""

import collections
import contextlib
import ctypes
import signal
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from onnxserve import Client, Unavailable
from onnxserve.errors import from_rpc_error
from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2
from onnxserve_server.app import App
from onnxserve_server.settings import load_settings
from support import zoo

PREDICT = "/onnxserve.v1.InferenceService/Predict"
CALLERS = 16
X = np.ones((1, 3), np.float32)

MODELS = {"double": zoo.double(), "slow": zoo.slow()}
NOT_SERVING, SERVING = health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING


class Callers:
    """Threads that call in a loop, each until its first call that fails; nothing is tried again."""

    def __init__(self, address):
        self._address = address
        self.answered = threading.Semaphore(0)
        self.succeeded = collections.deque()  # when each call was begun
        self.errors = []
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        for _ in range(4 * CALLERS):
            assert self.answered.acquire(timeout=30)
        return self

    def __exit__(self, *_):
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _call(self):
        with Client(self._address, retries=0, options=[("grpc.use_local_subchannel_pool", 1)]) as client:
            while True:
                began = time.monotonic()
                try:
                    answer = client.predict("double", {"x": X}, timeout=30)["y"].tolist()
                    assert answer == [[2, 2, 2]]
                except Exception as error:
                    self.errors.append(error)
                    return
                self.succeeded.append(began)
                self.answered.release()


@contextlib.contextmanager
def health(address):
    with grpc.insecure_channel(address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def steps_of_a_second(client):
    """What zoo.slow must be given to run for about a second on this machine."""
    began = time.monotonic()
    client.predict("slow", {"x": np.full((1, 1), 100, np.float32)})
    return np.full((1, 1), 100 / (time.monotonic() - began), np.float32)


def slow_request(steps):
    return inference_service_pb2.PredictRequest(model="slow", inputs=[encode("x", steps)]).SerializeToString()


def one_that_runs_and_one_that_waits(predict, message):
    """Make endless calls until the queue of one has no room: either may be refused when both come at a time."""
    calls = []
    for _ in range(100):
        calls = [call for call in calls if not call.done()]
        calls += [predict.future(message) for _ in range(2 - len(calls))]
        # Twice: the refusal of one of ours may be on its way when the first probe is answered.
        probes = [predict.future(message, timeout=0.2).exception().code() for _ in range(2)]
        if probes == 2 * [grpc.StatusCode.RESOURCE_EXHAUSTED] and not any(call.done() for call in calls):
            return calls
    raise AssertionError("the queue did not fill")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_under_load_no_accepted_call_is_lost(launch, edge, sig):
    server = launch(MODELS, "--edge", edge, "--drain-delay", 2)
    with Client(server.address, retries=0) as client, health(server.address) as stub:
        two_seconds = 2 * steps_of_a_second(client)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == SERVING
        in_flight = []
        long_run = threading.Thread(
            target=lambda: in_flight.append(client.predict("slow", {"x": two_seconds})["y"].tolist())
        )
        long_run.start()
        with Callers(server.address) as callers:
            server.popen.send_signal(sig)
            assert next(watch).status == NOT_SERVING
            drained = time.monotonic()
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == NOT_SERVING
            assert stub.Check(health_pb2.HealthCheckRequest(service="model/double"), timeout=10).status == NOT_SERVING
            assert client.predict("double", {"x": X})["y"].tolist() == [[2, 2, 2]]
        long_run.join(60)
        code, stdout = server.stop(sig=0)
    assert (code, stdout) == (0, "")
    assert in_flight == [two_seconds.tolist()]
    assert [error for error in callers.errors if type(error) is not Unavailable] == []
    assert len(callers.errors) == CALLERS
    assert max(callers.succeeded) > drained + 0.3, "calls begun during the delay were not served"
    assert "Traceback" not in server.log.read_text()


def test_calls_that_still_wait_for_a_thread_are_told_to_go_elsewhere(launch):
    server = launch(MODELS, "--edge", "plain", "--workers", 1)
    with Client(server.address, retries=0) as client, grpc.insecure_channel(server.address) as channel:
        predict = channel.unary_unary(PREDICT)
        tenth, answered = slow_request(steps_of_a_second(client) / 10), threading.Event()
        calls = [predict.future(tenth, timeout=60) for _ in range(20)]
        for call in calls:
            call.add_done_callback(lambda _: answered.set())
        assert answered.wait(30)
        code, _ = server.stop()
        assert code == 0
        for call in calls:
            call.exception()
        assert {call.code() for call in calls} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        refused = [from_rpc_error(call.exception()) for call in calls if call.code() != grpc.StatusCode.OK]
    assert {error.reason for error in refused} == {"DRAINING"}
    assert all(error.retry_delay for error in refused)


def test_a_run_beyond_the_drain_timeout_is_cut_off(launch, edge):
    configs = {"slow": "batching: {max_rows: 1, max_queue_rows: 1}"}
    server = launch(MODELS, "--edge", edge, "--drain-timeout", 0.3, configs=configs)
    with grpc.insecure_channel(server.address) as channel:
        predict, endless = channel.unary_unary(PREDICT), slow_request(np.full((1, 1), 1e7, np.float32))
        calls = one_that_runs_and_one_that_waits(predict, endless)
        began = time.monotonic()
        code, _ = server.stop(timeout=30)
        took = time.monotonic() - began
        assert {call.code() for call in calls} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert code == 0
    assert 0.2 < took < 15
    assert "still in flight" in server.log.read_text()


def test_an_open_watch_does_not_delay_the_stop(launch, edge):
    server = launch(MODELS, "--edge", edge, "--drain-timeout", 60)
    with health(server.address) as stub:
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        began = time.monotonic()
        code, _ = server.stop(timeout=30)
        took = time.monotonic() - began
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError):
            next(watch)
    assert code == 0
    assert took < 15


def test_stdout_has_the_address_and_nothing_else(launch):
    server = launch({"double": zoo.double(), "fixed": zoo.fixed(), "frozen": zoo.frozen()}, "--log-level", "debug")
    host, port = server.address.rsplit(":", 1)
    assert host == "127.0.0.1"
    assert 0 < int(port) < 2**16
    with Client(server.address, retries=0) as client:
        client.predict("double", {"x": X})
    assert server.stop() == (0, "")
    assert "model frozen/1 runs one request at a time" in server.log.read_text()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_that_reaches_another_thread_than_the_main_one_stops_the_server(launch, sig):
    server = launch({"double": zoo.double()})
    pid = server.popen.pid
    others = [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir() if thread.name != str(pid)]
    assert ctypes.CDLL(None).tgkill(pid, others[len(others) // 2], sig) == 0
    assert server.popen.wait(30) == 0


def test_a_second_interrupt_does_not_wait_for_the_drain(launch):
    server = launch({"double": zoo.double()}, "--drain-delay", 60)
    with health(server.address) as stub:
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        server.popen.send_signal(signal.SIGINT)
        assert next(watch).status == NOT_SERVING
        code, _ = server.stop(signal.SIGINT, timeout=20)
    assert code == -signal.SIGINT


def test_a_start_that_is_called_off_while_models_load_never_listens(tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    app, stop, addresses = App(load_settings(models=root, port=0, http_port=-1)), threading.Event(), []
    stop.set()
    app.run(stop, addresses.append)
    assert (addresses, app.port, app.engine.table.models()) == ([], 0, [])
