"""Health and reflection, as load balancers, Kubernetes and grpcurl ask for them."""

import threading

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from onnxserve_server.edge.health import Health
from support import zoo
from support.waiting import until

NOT_SERVING, SERVING = health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING
NAMES = ["", "onnxserve.v1.InferenceService", "onnxserve.v1.ModelService", "model/double", "model/fixed"]


@pytest.fixture(scope="module", params=["lane", "plain"])
def server(request, serving, tmp_path_factory):
    root = zoo.write(tmp_path_factory.mktemp("models"), {"double": zoo.double(), "fixed": zoo.fixed()})
    with serving(root, edge=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def health(channel):
    return health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("name", NAMES)
def test_what_serves_says_so(health, name):
    assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=10)
    assert next(watch).status == SERVING
    watch.cancel()


def test_all_are_listed(health):
    statuses = health.List(health_pb2.HealthListRequest(), timeout=10).statuses
    assert {name: status.status for name, status in statuses.items()} == dict.fromkeys(NAMES, SERVING)


@pytest.mark.parametrize("name", ["model/nope", "double", "onnxserve.v1"])
def test_what_is_not_known_is_not_found_by_check_and_unknown_to_watch(health, name):
    with pytest.raises(grpc.RpcError) as raised:
        health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_the_client_tells_readiness(server):
    assert [server.client.ready(model) for model in (None, "double", "nope")] == [True, True, False]


def test_reflection_lists_and_describes_the_services(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        "onnxserve.v1.InferenceService",
        "onnxserve.v1.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    service = DescriptorPool(database).FindServiceByName("onnxserve.v1.InferenceService")
    assert service.methods_by_name["Predict"].input_type.full_name == "onnxserve.v1.PredictRequest"


def test_watchers_that_leave_while_a_status_changes_stop_nothing(serving, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    with serving(root) as server, grpc.insecure_channel(server.address) as channel:
        stub, health = health_pb2_grpc.HealthStub(channel), server.app.health
        for _ in range(30):
            watches = [stub.Watch(health_pb2.HealthCheckRequest(service="x"), timeout=30) for _ in range(20)]
            for watch in watches:
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            leaving = threading.Thread(target=lambda calls=watches: [call.cancel() for call in calls[:-1]])
            leaving.start()
            for status in 20 * [SERVING, NOT_SERVING]:
                health.set(["x"], status)
            leaving.join()
            while next(watches[-1]).status != NOT_SERVING:
                pass
            watches[-1].cancel()
            health._statuses.pop("x")
        until(lambda: not health._watchers)


def test_a_probe_is_answered_while_every_thread_is_taken(serving, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    with serving(root, edge="lane", workers=2) as server, grpc.insecure_channel(server.address) as channel:
        reflection = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        release = threading.Event()
        idle = [reflection(silence(release)) for _ in range(4)]  # each holds a thread of the server
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING
        assert server.client.predict("double", {"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]
        release.set()
        for call in idle:
            call.cancel()


def silence(release):
    """A stream on which nothing is sent until it is released."""
    release.wait(30)
    yield from ()


def test_what_comes_to_serve_as_the_server_drains_does_not_say_so():
    health = Health()

    def names():
        health.drain()  # in another thread, once set() has begun
        yield "model/double"

    health.set(names(), SERVING)
    response = health.list(health_pb2.HealthListRequest())
    assert {name: each.status for name, each in response.statuses.items()} == {"": NOT_SERVING}
