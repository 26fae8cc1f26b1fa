"""The floor: the lane alone. Each PredictRequest is decoded and answered with the same zeros, as long as a real answer.

What a server on the lane adds to this is its own: admission, queue, batching, the run, the answer's encoding.
"""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from bench.models import MODELS, Floats, Model
from bench.ours import PREDICT
from bench.process import ServerProcess
from onnxserve import tensor
from onnxserve.v1 import inference_service_pb2 as pb
from onnxserve_server.edge.calls import Call
from onnxserve_server.edge.lane import Lane
from onnxserve_server.edge.unsent import UnsentAnswers


def serve() -> ServerProcess:
    """Start the floor's server."""
    return ServerProcess("floor", [sys.executable, "-m", "bench.floor"])


def zeros(model: Model) -> Floats:
    """What the floor answers."""
    return np.zeros((1, model.columns), np.float32)


def _answer(model: Model) -> bytes:
    receipt = pb.Receipt(queue_us=100, compute_us=100, batch_rows=8, batch_requests=8, provider="CPUExecutionProvider")
    outputs = [tensor.encode("y", zeros(model))]
    return pb.PredictResponse(model=model.name, version="1", outputs=outputs, receipt=receipt).SerializeToString()


def _main() -> None:
    answers = {name: _answer(model) for name, model in MODELS.items()}

    def predict(call: Call, message: bytes) -> None:
        call.reply(answers[pb.PredictRequest.FromString(message).model])

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    lane = Lane(server, {PREDICT: predict}, {}, flush=lambda: None, unsent=UnsentAnswers(1 << 30))
    server.start()
    lane.start()
    print(f"the floor is ready on 127.0.0.1:{port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(None).wait()
    lane.stop()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # before any thread begins
    _main()
