"""What a server says of its models, and whether it is ready."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import onnxserve
from onnxserve.v1 import model_service_pb2, tensor_pb2

MODEL = model_service_pb2.Model(
    name="digits",
    version="2",
    state=model_service_pb2.MODEL_STATE_READY,
    inputs=[
        tensor_pb2.TensorSpec(
            name="image",
            data_type=tensor_pb2.DATA_TYPE_FLOAT,
            shape=[
                tensor_pb2.Dimension(size=-1, name="batch"),
                tensor_pb2.Dimension(size=-1),
                tensor_pb2.Dimension(size=28),
            ],
        )
    ],
    outputs=[tensor_pb2.TensorSpec(name="scores", data_type=tensor_pb2.DATA_TYPE_BFLOAT16, labels=["zero", "one"])],
    batching=model_service_pb2.Batching(enabled=True, max_rows=32),
    runtime=model_service_pb2.Runtime(providers=["CPUExecutionProvider"], instances=1, options={"a.b": "c"}),
    metadata={"author": "x"},
)


def test_a_models_description_is_read_whole(serve):
    asked = []

    def get(request, _):
        asked.append(model_service_pb2.GetModelRequest.FromString(request))
        return model_service_pb2.GetModelResponse(model=MODEL).SerializeToString()

    def listing(*_):
        return model_service_pb2.ListModelsResponse(models=[MODEL, MODEL]).SerializeToString()

    target = serve({"/onnxserve.v1.ModelService/GetModel": get, "/onnxserve.v1.ModelService/ListModels": listing})
    with onnxserve.Client(target) as client:
        info = client.model("digits", "2")
        assert client.models() == [info, info]
    assert asked == [model_service_pb2.GetModelRequest(model="digits", version="2")]
    assert info.state == "READY"
    assert info.inputs == (onnxserve.TensorSpec(name="image", dtype="float32", shape=("batch", None, 28), labels=()),)
    assert info.outputs[0] == onnxserve.TensorSpec(name="scores", dtype="bfloat16", shape=(), labels=("zero", "one"))
    assert (info.batching.enabled, info.batching.max_rows) == (True, 32)
    assert json.loads(json.dumps(info.to_dict()))["runtime"] == {
        "requested_providers": [],
        "providers": ["CPUExecutionProvider"],
        "instances": 1,
        "threads": 0,
        "options": {"a.b": "c"},
    }


@pytest.fixture
def health_target():
    """A server with grpc's own health service: itself and one model ready, one not."""
    service = health.HealthServicer()
    service.set("model/on", health_pb2.HealthCheckResponse.SERVING)
    service.set("model/off", health_pb2.HealthCheckResponse.NOT_SERVING)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.mark.parametrize(("model", "ready"), [(None, True), ("on", True), ("off", False), ("unknown", False)])
def test_ready_is_what_the_health_service_says(health_target, model, ready):
    async def ask():
        async with onnxserve.AsyncClient(health_target) as client:
            return await client.ready(model)

    with onnxserve.Client(health_target) as client:
        assert client.ready(model) is ready
    assert asyncio.run(ask()) is ready


def test_a_server_that_cannot_be_reached_is_not_ready():
    with onnxserve.Client("unix:/nonexistent/socket") as client:
        assert client.ready() is False


def test_a_server_without_the_health_service_cannot_be_asked_whether_it_is_ready(serve):
    with onnxserve.Client(serve({})) as client, pytest.raises(onnxserve.Unimplemented):
        client.ready()
