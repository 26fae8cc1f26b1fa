"""Test a program that calls onnxserve without a model: a gRPC server in the test's own process runs Python functions.

    import numpy as np
    import onnxserve
    from onnxserve import testing

    def double(inputs):
        return {"y": 2 * inputs["x"]}

    def test_doubling():
        with testing.serve({"double": double}) as server, onnxserve.Client(server.target) as client:
            assert client.predict("double", {"x": np.ones(3, np.float32)})["y"].tolist() == [2, 2, 2]

The server listens on the loopback interface, on a port of its own. Client and AsyncClient call it as they call any
server, over real gRPC: predict(), stream(), sequence(), generate(), models(), model() and ready(), with deadlines,
cancellation and errors. It needs no more packages than the client.
"""

from onnxserve.testing._models import Function, Model, prediction
from onnxserve.testing._requests import Request, current_request
from onnxserve.testing._server import Server, serve

__all__ = ["Function", "Model", "Request", "Server", "current_request", "prediction", "serve"]
