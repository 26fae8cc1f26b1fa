"""Concurrent calls of one client, and a server that answers when a test lets it."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

import onnxserve
from onnxserve._models import model_info
from onnxserve.tensor import decode, encode
from onnxserve.v1 import inference_service_pb2, model_service_pb2, tensor_pb2
from support.waiting import until

FLOAT, BOOL = tensor_pb2.DATA_TYPE_FLOAT, tensor_pb2.DATA_TYPE_BOOL
PREDICT = "/onnxserve.v1.InferenceService/Predict"
GET_MODEL = "/onnxserve.v1.ModelService/GetModel"
FOR_EVER = 60.0  # longer than any test waits


def spec(name, *axes, dtype=FLOAT, **fields):
    shape = [
        tensor_pb2.Dimension(size=a) if isinstance(a, int) else tensor_pb2.Dimension(size=-1, name=a) for a in axes
    ]
    return tensor_pb2.TensorSpec(name=name, data_type=dtype, shape=shape, **fields)


def description(inputs=(), outputs=(), **batching):
    """A Model message: y = 2 x, float32 [batch, 2], unless a test says otherwise."""
    limits = {"enabled": True, "max_rows": 64, "max_queue_rows": 4096, "max_queue_bytes": 1 << 28}
    return model_service_pb2.Model(
        name="m",
        version="1",
        inputs=inputs or [spec("x", "batch", 2)],
        outputs=outputs or [spec("y", "batch", 2)],
        batching=model_service_pb2.Batching(**limits | batching),
    )


def row(value):
    return np.full((1, 2), value, np.float32)


class Server:
    """Doubles x; what it is asked is kept, and answered only while `open` is set."""

    def __init__(self):
        self.model = description()
        self.open = threading.Event()
        self.open.set()
        self.requests, self.messages, self.asked = [], [], []
        self.before = 0
        self._contexts = []
        self.refuse = lambda rows, context: None
        self.version = "1"
        self.compute = lambda x: 2 * x

    def predict(self, message, context):
        request = inference_service_pb2.PredictRequest.FromString(message)
        self.messages.append(message)
        self.requests.append(request)
        self._contexts.append(context)
        assert self.open.wait(FOR_EVER)
        x = decode(request.inputs[0])
        self.refuse(x.shape[0] if x.ndim else 1, context)
        return inference_service_pb2.PredictResponse(
            model=request.model,
            version=self.version,
            request_id=request.request_id,
            outputs=[encode("y", self.compute(x))],
            receipt=inference_service_pb2.Receipt(batch_rows=len(x), batch_requests=1),
        ).SerializeToString()

    def get_model(self, message, context):
        self.asked.append(message)
        if self.model is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "what is a model?")
        return model_service_pb2.GetModelResponse(model=self.model).SerializeToString()

    def left(self, index):
        """Whether the caller of a request has left."""
        return not self._contexts[index].is_active()

    @property
    def further(self):
        """The requests that came after those of busy()."""
        return self.requests[self.before :]

    @property
    def rows(self):
        """How many rows each of those had."""
        return [request.inputs[0].shape[0] for request in self.further]


class Threads:
    """Calls a server from threads. Calls that wait for others do so until the test lets them go."""

    def __init__(self, server, **options):
        self.client = onnxserve.Client(server.address, **options)
        self.client._coalescer.max_wait = FOR_EVER
        self.pool = ThreadPoolExecutor(80)

    def start(self, x, **options):
        """Start a call and return its future."""
        return self.pool.submit(self.client.predict, "m", {"x": np.asarray(x)}, **{"timeout": FOR_EVER} | options)

    def close(self):
        self.client.close()
        self.pool.shutdown()


class Tasks:
    """Calls a server from tasks of one event loop, which has a thread of its own."""

    def __init__(self, server, **options):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

        async def connect():
            return onnxserve.AsyncClient(server.address, **options)

        self.client = self.run(connect())
        self.client._coalescer.max_wait = FOR_EVER

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(FOR_EVER)

    def start(self, x, **options):
        """Start a call and return its future."""
        call = self.client.predict("m", {"x": np.asarray(x)}, **{"timeout": FOR_EVER} | options)
        return asyncio.run_coroutine_threadsafe(call, self.loop)

    def close(self):
        self.run(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextlib.contextmanager
def connected(kind, server, known=True, **options):
    made = kind(server, **options)
    if known:
        made.client._coalescer.learn("m", None, model_info(server.model))
    yield made
    server.open.set()
    until(lambda: not made.client._coalescer._groups)
    made.close()


def waiting(calls):
    return sum(len(group.waiting) for group in calls.client._coalescer._groups.values())


@contextlib.contextmanager
def busy(server, calls, x=None):
    """Keep four calls out until the block ends; what is started in the block, and like them, waits."""
    server.open.clear()
    server.before = len(server.requests) + 4
    first = [calls.start(row(-number) if x is None else x) for number in range(4)]
    until(lambda: len(server.requests) == server.before)
    yield first
    server.open.set()


def start_waiting(calls, *xs, **options):
    """Start calls that wait, one after the other, in this order."""
    started = []
    for number, x in enumerate(xs, waiting(calls) + 1):
        started.append(calls.start(x, **options))
        until(lambda number=number: waiting(calls) == number)
    return started


def values(started):
    return [call.result(FOR_EVER)["y"].tolist() for call in started]


def doubled(*xs):
    return [(2 * np.asarray(x)).tolist() for x in xs]


def flush(calls):
    """Send the waiting calls, as the first of them does after max_wait."""
    (waiter,) = (m for group in calls.client._coalescer._groups.values() for m in group.waiting if m.is_first)
    if isinstance(calls, Tasks):
        calls.loop.call_soon_threadsafe(calls.client._coalescer.flush, waiter)
    else:
        calls.client._coalescer.flush(waiter)
