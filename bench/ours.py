"""onnxserve as a contender: how its servers are started, what is sent to them, how their answers read."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.load import Target
from bench.models import REPOSITORY, Floats, Model
from bench.process import ServerProcess
from onnxserve import tensor
from onnxserve.v1 import inference_service_pb2 as pb

PREDICT = "/onnxserve.v1.InferenceService/Predict"


def serve(
    name: str, *options: str, repository: Path = REPOSITORY, environment: Mapping[str, str] | None = None
) -> ServerProcess:
    """Start the server on one thread a model, with the benchmark's models or others, and any free port."""
    command = [sys.executable, "-m", "onnxserve", "serve", "--models", str(repository), "--host", "127.0.0.1"]
    return ServerProcess(
        name, [*command, "--port", "0", "--http-port", "-1", "--threads", "1", *options], env=environment
    )


def target(address: str, model: Model) -> Target:
    """A Predict of the model's one row."""
    request = pb.PredictRequest(model=model.name, inputs=[tensor.encode("x", model.one_row())])
    return Target(address=address, method=PREDICT, message=request.SerializeToString())


def decode(answer: bytes) -> Floats:
    """The output y of a PredictResponse."""
    (y,) = pb.PredictResponse.FromString(answer).outputs
    return np.asarray(tensor.decode(y), np.float32)
