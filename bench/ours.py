"""onnxserve as a contender: how its servers are started, what is sent to them, how their answers read."""

import json
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

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


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A server whose own counters are read."""

    process: ServerProcess
    http_port: int

    def total(self, metric: str, field: str = "value", **attributes: str) -> float:
        """Return the sum of a metric's field since the start, over the points that have these attributes."""
        with urlopen(f"http://127.0.0.1:{self.http_port}/api/status", timeout=60) as answer:
            metrics = json.load(answer)["metrics"]
        points = metrics[metric]["points"] if metric in metrics else []
        return sum(float(point[field]) for point in points if attributes.items() <= point["attributes"].items())


@contextmanager
def serve_counted(name: str, *options: str, repository: Path = REPOSITORY) -> Iterator[Counted]:
    """Start the server as serve() does, with its page."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serve(name, "--http-port", str(port), *options, repository=repository) as process:
        yield Counted(process=process, http_port=port)


def target(address: str, model: Model) -> Target:
    """A Predict of the model's one row."""
    request = pb.PredictRequest(model=model.name, inputs=[tensor.encode("x", model.one_row())])
    return Target(address=address, method=PREDICT, message=request.SerializeToString())


def decode(answer: bytes) -> Floats:
    """The output y of a PredictResponse."""
    (y,) = pb.PredictResponse.FromString(answer).outputs
    return np.asarray(tensor.decode(y), np.float32)
