"""Servers in this process, of methods that take and give bytes (for misbehaviour) or of functions; and both clients."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from hypothesis import settings

import onnxserve
from onnxserve import testing
from support.either import Either

PREDICT = "/onnxserve.v1.InferenceService/Predict"
STREAM = "/onnxserve.v1.InferenceService/Stream"

settings.register_profile("client", deadline=None)  # a busy machine is not a fault
settings.load_profile("client")


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, methods):
        self._methods = methods

    def service(self, call):
        method = self._methods.get(call.method)
        if method is None:
            return None
        if call.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(method)
        return grpc.unary_unary_rpc_method_handler(method)


class Servers:
    """Starts servers, and stops them after the test."""

    def __init__(self):
        self._running = []

    def __call__(self, methods, workers=2):
        """Start a server of methods by path, or of Predict alone, and return its address."""
        if callable(methods):
            methods = {PREDICT: methods}
        server = grpc.server(ThreadPoolExecutor(workers))
        server.add_generic_rpc_handlers([_Methods(methods)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._running.append(server)
        return f"127.0.0.1:{port}"

    def stop(self):
        for server in self._running:
            server.stop(0).wait()


@pytest.fixture
def serve():
    servers = Servers()
    yield servers
    servers.stop()


@pytest.fixture
def serve_functions():
    """onnxserve.testing.serve(), whose servers are closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(testing.serve(*args, **kwargs))


@pytest.fixture(params=[onnxserve.Client, onnxserve.AsyncClient])
def either(request):
    """Makes clients of either kind, which are called like blocking ones."""
    with Either(request.param) as made:
        yield made
