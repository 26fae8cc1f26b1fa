from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

PREDICT = "/onnxserve.v1.InferenceService/Predict"


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, methods):
        self._methods = methods

    def service(self, call):
        method = self._methods.get(call.method)
        return grpc.unary_unary_rpc_method_handler(method) if method else None


@pytest.fixture
def serve():
    """Start a real server of methods that take and give bytes; gives its address, and stops it after the test."""
    servers = []

    def start(methods, workers=2):
        if callable(methods):
            methods = {PREDICT: methods}
        server = grpc.server(ThreadPoolExecutor(workers))
        server.add_generic_rpc_handlers([_Methods(methods)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()
