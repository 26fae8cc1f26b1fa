import asyncio
import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import onnxserve
from onnxserve import errors, tensor
from onnxserve._channel import service_config, target_uri
from onnxserve.v1 import inference_service_pb2, model_service_pb2, tensor_pb2

INPUTS = {"x": np.arange(4, dtype=np.float32)}
RECEIPT = {
    "queue_us": 5,
    "batch_wait_us": 6,
    "compute_us": 7,
    "batch_rows": 8,
    "batch_requests": 2,
    "provider": "CPUExecutionProvider",
}


def echo(request, _):
    """Answer with the inputs as the outputs."""
    read = inference_service_pb2.PredictRequest.FromString(request)
    return inference_service_pb2.PredictResponse(
        model=read.model,
        version=read.version or "1",
        request_id=read.request_id,
        outputs=read.inputs,
        receipt=inference_service_pb2.Receipt(**RECEIPT),
    ).SerializeToString()


class Failing:
    """Fails a number of calls, then echoes."""

    def __init__(self, times, code, trailers=()):
        self.calls = 0
        self._times, self._code, self._trailers = times, code, trailers

    def __call__(self, request, context):
        self.calls += 1
        if self.calls > self._times:
            return echo(request, context)
        context.set_trailing_metadata(self._trailers)
        return context.abort(self._code, "not now")


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("localhost:8500", "dns:///localhost:8500"),
        ("unixhost:1", "dns:///unixhost:1"),
        ("10.0.0.1:8500", "dns:///10.0.0.1:8500"),
        ("[::1]:8500", "dns:///[::1]:8500"),
        ("dns:///models:8500", "dns:///models:8500"),
        ("dns://1.1.1.1/models:8500", "dns://1.1.1.1/models:8500"),
        ("unix:/run/onnxserve.sock", "unix:/run/onnxserve.sock"),
        ("unix-abstract:name", "unix-abstract:name"),
        ("xds:///models", "xds:///models"),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("mine://models", "mine://models"),
    ],
)
def test_a_target_without_a_scheme_is_a_dns_name(target, uri):
    assert target_uri(target) == uri


@pytest.mark.parametrize(("retries", "attempts"), [(1, 2), (3, 4), (9, 5)])
def test_the_service_config_allows_one_attempt_more_than_retries_and_at_most_five(retries, attempts):
    config = json.loads(service_config(retries=retries, load_balancing="round_robin"))
    assert config["methodConfig"][0]["retryPolicy"]["maxAttempts"] == attempts


def test_a_prediction_is_a_mapping_with_the_receipt(serve):
    with onnxserve.Client(serve(echo)) as client:
        prediction = client.predict("m", INPUTS, version="3", request_id="mine")
    assert dict(prediction).keys() == {"x"}
    assert prediction["x"].dtype == np.float32
    assert prediction["x"].tolist() == [0, 1, 2, 3]
    assert not prediction["x"].flags.writeable
    assert (prediction.model, prediction.version, prediction.request_id) == ("m", "3", "mine")
    assert prediction.receipt == onnxserve.Receipt(**RECEIPT)
    assert repr(prediction).startswith("<Prediction of m version 3: x: float32[4]; Receipt(queue_us=5")


def test_the_async_client_gives_the_same(serve):
    async def call():
        async with onnxserve.AsyncClient(serve(echo)) as client:
            return await asyncio.gather(*(client.predict("m", {"x": np.full(2, i)}) for i in range(20)))

    assert [each["x"].tolist() for each in asyncio.run(call())] == [[i, i] for i in range(20)]


def test_every_field_of_a_request_reaches_the_server(serve):
    seen = []

    def keep(request, context):
        seen.append(inference_service_pb2.PredictRequest.FromString(request))
        seen.append(dict(context.invocation_metadata())["authorization"])
        return echo(request, context)

    with onnxserve.Client(serve(keep), metadata=[("authorization", "Bearer x")]) as client:
        client.predict("m", INPUTS, outputs=["b", "a"], version="2", priority=-3, request_id="id")
    assert seen == [
        inference_service_pb2.PredictRequest(
            model="m",
            version="2",
            inputs=[tensor.encode("x", INPUTS["x"])],
            outputs=["b", "a"],
            priority=-3,
            request_id="id",
        ),
        "Bearer x",
    ]


def test_requests_without_an_id_get_different_ones(serve):
    target = serve(echo)
    with onnxserve.Client(target) as one, onnxserve.Client(target) as other:
        ids = [client.predict("m", INPUTS).request_id for client in (one, one, other, other)]
    assert len({*ids}) == 4
    assert all(ids)


@pytest.mark.parametrize("value", [[1.0, 2.0], 1.0, "text", None, memoryview(b"1234")])
def test_an_input_that_is_no_numpy_array_is_a_type_error_that_says_what_to_do(value):
    with onnxserve.Client("localhost:1") as client, pytest.raises(TypeError, match=r"inputs\['x'\].*np\.asarray\(x, d"):
        client.predict("m", {"x": value})


def test_a_single_name_as_outputs_is_a_type_error():
    with onnxserve.Client("localhost:1") as client, pytest.raises(TypeError, match=r"\['logits'\], not 'logits'"):
        client.predict("m", INPUTS, outputs="logits")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_server_that_stops_is_tried_again(serve, code):
    server = Failing(2, code)
    with onnxserve.Client(serve(server)) as client:
        assert client.predict("m", INPUTS)["x"].tolist() == [0, 1, 2, 3]
    assert server.calls == 3


def test_one_replica_of_two_that_fails_does_not_use_up_the_retries(serve):
    """In turn with the other one, as seen from a client; the retries' tokens last for fifty failures beyond."""
    replica = Failing(200, grpc.StatusCode.UNAVAILABLE, [("grpc-retry-pushback-ms", "1")])
    in_turn = itertools.cycle([replica, echo])

    def either(request, context):
        return next(in_turn)(request, context)

    with onnxserve.Client(serve(either)) as client:
        for _ in range(200):
            client.predict("m", INPUTS)
    assert replica.calls == 200


def test_a_large_request_is_tried_again_too(serve):
    server = Failing(1, grpc.StatusCode.UNAVAILABLE)
    large = np.ones(500_000, np.float32)  # grpc's own limit for what it tries again is 256 KiB
    with onnxserve.Client(serve(server)) as client:
        assert client.predict("m", {"x": large})["x"].sum() == 500_000
    assert server.calls == 2


def test_the_async_client_tries_again_too(serve):
    server = Failing(1, grpc.StatusCode.UNAVAILABLE)

    async def call():
        async with onnxserve.AsyncClient(serve(server)) as client:
            return await client.predict("m", INPUTS)

    assert asyncio.run(call())["x"].tolist() == [0, 1, 2, 3]
    assert server.calls == 2


@pytest.mark.parametrize(
    ("code", "retries", "trailers", "calls"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 3, (), 1),
        (grpc.StatusCode.INTERNAL, 3, (), 1),
        (grpc.StatusCode.UNAVAILABLE, 0, (), 1),
        (grpc.StatusCode.UNAVAILABLE, 1, (), 2),
        (grpc.StatusCode.UNAVAILABLE, 3, [("grpc-retry-pushback-ms", "-1")], 1),
        (grpc.StatusCode.UNAVAILABLE, 3, [("grpc-retry-pushback-ms", "1")], 4),
    ],
    ids=["full", "internal", "retries off", "retries used up", "pushback: never", "pushback: 1 ms"],
)
def test_retries_keep_to_the_policy_and_to_the_servers_pushback(serve, code, retries, trailers, calls):
    server = Failing(100, code, trailers)
    with onnxserve.Client(serve(server), retries=retries) as client, pytest.raises(onnxserve.OnnxserveError) as caught:
        client.predict("m", INPUTS)
    assert caught.value.code == code
    assert server.calls == calls


def test_cancelling_a_task_cancels_its_call_on_the_server(serve):
    arrived, left = threading.Event(), threading.Event()

    def wait(request, context):
        context.add_callback(left.set)
        arrived.set()
        left.wait(30)
        return echo(request, context)

    async def call():
        async with onnxserve.AsyncClient(serve(wait)) as client:
            task = asyncio.create_task(client.predict("m", INPUTS))
            assert await asyncio.to_thread(arrived.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(left.wait, 20)

    asyncio.run(call())


def test_an_async_client_made_outside_an_event_loop_is_refused():
    with pytest.raises(RuntimeError, match="no running event loop"):
        onnxserve.AsyncClient("localhost:1")


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
    with onnxserve.Client(serve(echo)) as client, pytest.raises(onnxserve.Unimplemented):
        client.ready()


def test_the_client_needs_none_of_the_optional_packages():
    program = """
import importlib.abc, sys

ALLOWED = {*sys.stdlib_module_names, "onnxserve", "grpc", "grpc_status", "google", "numpy", "typing_extensions"}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import onnxserve, onnxserve.testing
with onnxserve.Client("unix:/nonexistent/socket") as client:
    print(client.ready())
with onnxserve.testing.serve({"m": dict}) as server, onnxserve.Client(server.target) as client:
    print(client.ready("m"), dict(client.predict("m", {})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\nTrue {}\n"), done.stderr


@pytest.mark.parametrize("target", ["", "http://localhost:8500", "https://localhost:8500"])
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(ValueError, match="HOST:PORT"):
        onnxserve.Client(target)


@pytest.mark.parametrize(
    ("inputs", "version", "message"),
    [(np.zeros(3), None, "mapping of names"), ({"x": np.zeros(3)}, 1, "such as '1'")],
    ids=["inputs without names", "a number for the version"],
)
def test_a_request_that_cannot_be_meant_is_refused_before_it_is_sent(inputs, version, message):
    with onnxserve.Client("localhost:1") as client, pytest.raises(TypeError, match=message):
        client.predict("digits", inputs, version=version)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_that_leaves_no_time_is_refused(timeout):
    with onnxserve.Client("localhost:1") as client, pytest.raises(ValueError, match="above 0"):
        client.models(timeout=timeout)


def test_an_infinite_timeout_is_none(serve):
    with onnxserve.Client(serve({"/grpc.health.v1.Health/Check": lambda request, context: b"\x08\x01"})) as client:
        assert client.ready(timeout=float("inf"))


def test_a_timeout_in_float32_is_as_long_as_it_says(serve):
    left = []

    def check(request, context):
        left.append(context.time_remaining())
        return b"\x08\x01"

    timeouts = [20, 40, 60]  # the time in float32 has steps of 128 s: it cannot be right for all three
    with onnxserve.Client(serve({"/grpc.health.v1.Health/Check": check})) as client:
        for timeout in timeouts:
            client.ready(timeout=np.float32(timeout))
    assert left == pytest.approx(timeouts, abs=5)


def test_a_closed_client_says_so(serve):
    client = onnxserve.Client(serve({"/grpc.health.v1.Health/Check": lambda request, context: b"\x08\x01"}))
    client.close()
    with pytest.raises(errors.Cancelled, match="has been closed"):
        client.models()


def test_closing_an_async_client_ends_its_calls_and_cancels_no_task(serve):
    arrived, release = threading.Event(), threading.Event()

    def wait(request, context):
        arrived.set()
        release.wait(30)
        return b""

    async def close_while_waiting(target):
        client = onnxserve.AsyncClient(target)
        call = asyncio.create_task(client.models())
        await asyncio.to_thread(arrived.wait, 30)
        await client.close()
        with pytest.raises(errors.Cancelled, match="has been closed"):
            await call

    asyncio.run(close_while_waiting(serve({"/onnxserve.v1.ModelService/ListModels": wait})))
    release.set()
