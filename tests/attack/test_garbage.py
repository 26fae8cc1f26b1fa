"""Bytes that are no message: each is its caller's fault, by code and reason, and others are answered meanwhile."""

import random

import grpc
import numpy as np
import pytest

from onnxserve.errors import from_rpc_error
from support import zoo

PREDICT = "/onnxserve.v1.InferenceService/Predict"
REFUSED = {(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"), (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")}


@pytest.fixture
def messages(attack):
    """Random bytes, the same ones in each run."""
    rng = random.Random(0)
    made = [rng.randbytes(rng.randrange(40)) for _ in range(attack.size(300, 30_000))]
    attack.count("messages of random bytes", len(made))
    return made


def test_random_bytes_are_the_callers_fault_and_others_are_answered(serve, messages):
    server = serve({"double": zoo.double()})
    with grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(PREDICT)
        for start in range(0, len(messages), 100):
            calls = [method.future(message, timeout=60) for message in messages[start : start + 100]]
            assert server.client.predict("double", {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
            outcomes = {(call.code(), from_rpc_error(call.exception()).reason) for call in calls}
            assert outcomes <= REFUSED
