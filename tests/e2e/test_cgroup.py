"""In a small container the server takes its threads and bounds from the limits, and refuses before the kernel kills.

In control groups of the test's own: where none can be made these are skipped, and test_resources.py, which reads files
that look like them, is all there is.
"""

import contextlib
import os
import re
import threading

import grpc
import numpy as np
import pytest

from onnxserve import Client, Prediction
from onnxserve.errors import from_rpc_error
from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2, inference_service_pb2_grpc
from support import zoo
from support.cgroups import limited
from support.waiting import until

MIB = 1 << 20
MEMORY = 512 * MIB
ENDLESS = 1_000_000  # steps
REQUESTS = 600
CONNECTIONS = 8


@contextlib.contextmanager
def container(launch, cpus, models, *flags):
    """A server with so many CPUs and MEMORY, and its limits."""
    with limited(cpus, MEMORY) as limits:
        server = launch(models, *flags, threads=None, within=limits.within)
        try:
            yield server, limits
        finally:
            server.popen.kill()
            server.popen.wait(30)


@pytest.mark.parametrize("cpus", [0.5, 1, 2])
def test_threads_and_bounds_are_those_of_the_container(launch, cpus):
    with container(launch, cpus, {"double": zoo.double()}) as (server, _), Client(server.address) as client:
        assert client.model("double").runtime.threads == max(1, int(min(cpus, len(os.sched_getaffinity(0)))))
        waiting, left = bounds(server)
    assert MEMORY // MIB // 2 < left < MEMORY // MIB
    assert waiting == max(left // 4, 64)


def test_more_than_the_memory_holds_is_refused_and_the_server_lives(launch):
    """Requests of 1 MiB for two models that are busy: six times as many as may wait, and more than the container has.

    They come one after the other: gRPC's core holds what is on its way at one moment, and the server cannot bound that.
    On the lane alone: on the plain edge no more calls wait than there are workers.
    """
    models = {"a": zoo.slow_wide(), "b": zoo.slow_wide()}
    with contextlib.ExitStack() as stack:
        server, limits = stack.enter_context(container(launch, 1, models))
        stubs = [
            inference_service_pb2_grpc.InferenceServiceStub(stack.enter_context(grpc.insecure_channel(server.address)))
            for _ in range(CONNECTIONS)
        ]
        occupying = [occupy(stubs[0], model) for model in models]
        calls, pause = [], threading.Event()
        for i in range(REQUESTS):
            calls.append(stubs[i % CONNECTIONS].Predict.future(request("ab"[i % 2], 1, MIB // 4), timeout=60))
            pause.wait(0.01)
        waiting, _ = bounds(server)
        until(lambda: sum(not call.done() for call in calls) <= waiting, 30)
        refused = [call for call in calls if call.done()]
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert {from_rpc_error(call.exception()).reason for call in refused} == {"QUEUE_FULL"}
        for call in occupying:
            call.cancel()
        answers = [Prediction(call.result())["y"].item() for call in calls if call not in refused]
        assert len(answers) == waiting
        assert set(answers) == {1.0}
        assert limits.peak_memory < MEMORY

        assert stubs[1].Predict(request("a", 1, 1), timeout=60)
        assert server.stop()[0] == 0


def bounds(server):
    """What the server says of its memory, in MiB: what may wait, and what is left."""
    text = r"queued requests are limited to (\d+) MiB; (\d+) MiB of memory are left \(cgroup memory limit\)"
    return map(int, re.search(text, server.log.read_text()).groups())


def occupy(stub, model):
    """Return a call that keeps the executor of a model busy until it is cancelled."""
    call = stub.Predict.future(request(model, ENDLESS, 1))
    until(lambda: stub.Predict.future(request(model, 1, 2), timeout=0.5).code() is grpc.StatusCode.DEADLINE_EXCEEDED)
    return call


def request(model, steps, columns):
    """A request of so many float32 for zoo.slow_wide()."""
    x = np.full((1, columns), steps, np.float32)
    return inference_service_pb2.PredictRequest(model=model, inputs=[encode("x", x)])
