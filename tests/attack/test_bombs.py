"""Messages of millions of tiny elements, in a container of 1 GiB: refused, and other callers are answered meanwhile."""

import grpc
import numpy as np
import pytest

from onnxserve import Client
from onnxserve.errors import from_rpc_error
from onnxserve.v1 import inference_service_pb2
from support import bombs, flooding, zoo
from support.cgroups import limited

GIB = 1 << 30
MODELS = {"double": zoo.double()}
FIELDS = 28_000_000  # of two bytes, below --max-message-bytes
SHORT = ("inputs",)


@pytest.mark.parametrize("edge", ["lane", "plain"])
def test_messages_of_tiny_elements_are_refused_and_others_are_answered(launch, attack, edge):
    kinds = attack.size({name: bombs.REQUESTS[name] for name in SHORT}, bombs.REQUESTS)
    with limited(2, GIB) as limits:
        server = launch(MODELS, "--edge", edge, within=limits.within)
        with grpc.insecure_channel(server.address) as channel, Client(server.address, retries=0) as client:
            predict = channel.unary_unary(flooding.PREDICT)
            for make, _ in kinds.values():
                call = predict.future(make(FIELDS), timeout=120)
                ask(client)
                error = call.exception()
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert "more than" in from_rpc_error(error).message
            stream = channel.stream_stream(flooding.STREAM)
            messages = (make(FIELDS) for make, _ in attack.size({}, bombs.STREAM_REQUESTS).values())
            for answer in stream(messages, timeout=120):
                error = inference_service_pb2.StreamResponse.FromString(answer).error
                assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
                ask(client)
        attack.count(f"messages of tiny elements ({edge})", len(kinds))
        attack.count(f"MiB at most under them ({edge})", limits.peak_memory >> 20)
        assert limits.peak_memory < GIB
        assert server.stop()[0] == 0


def ask(client):
    assert client.predict("double", {"x": np.ones((1, 3), np.float32)}, timeout=60)["y"].tolist() == [[2, 2, 2]]
