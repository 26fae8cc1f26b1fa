"""Very many requests leave the server as it was: no memory, thread, descriptor or call is left behind."""

import threading

import grpc
import numpy as np
import psutil
import pytest

from onnxserve.tensor import encode
from onnxserve.v1 import inference_service_pb2
from support import zoo

PREDICT = "/onnxserve.v1.InferenceService/Predict"
WARM_UP = 20_000  # what the server allocates once (arenas, buffers, the threads of its pools) is no leak
CALLERS = 4
IN_FLIGHT = 64  # of each caller
IN_VAIN = 16  # one call of so many is a bad request, and one is cancelled

# The allocators' own ups and downs are about 5 MB either way; a call that is kept is at least 500 bytes, times 80,000
# requests 40 MB.
MAX_GROWTH = 16 << 20


POOLS = 8  # grpc's core starts and ends threads of its pool as it is busy


def usage(process):
    with process.oneshot():
        return process.memory_info().rss, process.num_threads(), process.num_fds()


class Load:
    """Callers that keep so many calls in flight, over one connection that stays."""

    def __init__(self, channel):
        x = np.ones((1, 3), np.float32)
        self._predict = channel.unary_unary(PREDICT)
        self._good = inference_service_pb2.PredictRequest(model="double", inputs=[encode("x", x)]).SerializeToString()
        self._bad = inference_service_pb2.PredictRequest(model="double", inputs=[encode("z", x)]).SerializeToString()
        self.unexpected = []

    def send(self, requests):
        threads = [threading.Thread(target=self._call, args=(requests // CALLERS,)) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.unexpected == []

    def _call(self, requests):
        room = threading.Semaphore(IN_FLIGHT)
        for i in range(requests):
            room.acquire()
            bad, cancelled = i % IN_VAIN == 0, i % IN_VAIN == 1
            call = self._predict.future(self._bad if bad else self._good, timeout=60)
            expected = {grpc.StatusCode.INVALID_ARGUMENT} if bad else {grpc.StatusCode.OK}
            call.add_done_callback(lambda call, expected=expected: self._over(call, expected, room))
            if cancelled:
                expected.add(grpc.StatusCode.CANCELLED)
                call.cancel()
        for _ in range(IN_FLIGHT):
            room.acquire()

    def _over(self, call, expected, room):
        if call.code() not in expected:
            self.unexpected.append((call.code(), call.details()))
        room.release()


@pytest.mark.parametrize("requests", [10_000, pytest.param(80_000, marks=[pytest.mark.slow, pytest.mark.timeout(400)])])
def test_many_requests_leave_the_server_as_it_was(launch, requests):
    server = launch({"double": zoo.double()})
    process = psutil.Process(server.popen.pid)
    with grpc.insecure_channel(server.address) as channel:
        load = Load(channel)
        load.send(WARM_UP)
        memory, threads, descriptors = usage(process)
        load.send(requests)
        memory_after, threads_after, descriptors_after = usage(process)
    assert threads_after <= threads + POOLS
    assert descriptors_after <= descriptors
    assert memory_after - memory < MAX_GROWTH
    # The drain waits for calls that are not over, and says so: none is left.
    assert server.stop() == (0, "")
    assert "still in flight" not in server.log.read_text()
