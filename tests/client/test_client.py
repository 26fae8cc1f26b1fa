"""Requests of both clients, and what they refuse before they send it."""

import asyncio
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

import onnxserve
from onnxserve import errors, tensor, testing
from onnxserve._channel import target_uri
from onnxserve.v1 import inference_service_pb2

INPUTS = {"x": np.arange(4, dtype=np.float32)}
RECEIPT = {
    "queue_us": 5,
    "batch_wait_us": 6,
    "compute_us": 7,
    "batch_rows": 8,
    "batch_requests": 2,
    "provider": "CPUExecutionProvider",
}


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


def test_options_of_the_caller_override_those_of_the_client(echo):
    """gRPC itself takes the first of two that have one name."""
    options = [("grpc.max_receive_message_length", 4)]
    with (
        onnxserve.Client(echo, options=options) as client,
        pytest.raises(errors.ResourceExhausted, match="larger than max"),
    ):
        client.predict("m", INPUTS)


def test_a_retry_policy_of_grpc_is_refused_beside_the_client_s_own():
    policy = {"maxAttempts": 5, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1}
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy | {"retryableStatusCodes": ["UNAVAILABLE"]}}]}
    with pytest.raises(ValueError, match=r"retryPolicy.* leave it out of grpc.service_config.* `retries`"):
        onnxserve.Client("localhost:1", options=[("grpc.service_config", json.dumps(config))])


@pytest.fixture
def echo():
    """The address of a server whose model "m" answers with its inputs."""
    with testing.serve({"m": lambda inputs: inputs}) as server:
        yield server.target


def test_a_prediction_is_a_mapping_with_the_receipt(serve):
    def answer(request, _):
        read = inference_service_pb2.PredictRequest.FromString(request)
        return inference_service_pb2.PredictResponse(
            model=read.model,
            version=read.version,
            request_id=read.request_id,
            outputs=read.inputs,
            receipt=inference_service_pb2.Receipt(**RECEIPT),
        ).SerializeToString()

    with onnxserve.Client(serve(answer)) as client:
        prediction = client.predict("m", INPUTS, version="3", request_id="mine")
    assert dict(prediction).keys() == {"x"}
    assert prediction["x"].dtype == np.float32
    assert prediction["x"].tolist() == [0, 1, 2, 3]
    assert not prediction["x"].flags.writeable
    assert (prediction.model, prediction.version, prediction.request_id) == ("m", "3", "mine")
    assert prediction.receipt == onnxserve.Receipt(**RECEIPT)
    assert repr(prediction).startswith("<Prediction of m version 3: x: float32[4]; Receipt(queue_us=5")


def test_the_async_client_gives_the_same(echo):
    async def call():
        async with onnxserve.AsyncClient(echo) as client:
            return await asyncio.gather(*(client.predict("m", {"x": np.full(2, i)}) for i in range(20)))

    assert [each["x"].tolist() for each in asyncio.run(call())] == [[i, i] for i in range(20)]


def test_every_field_of_a_request_reaches_the_server(serve):
    seen = []

    def keep(request, context):
        seen.append(inference_service_pb2.PredictRequest.FromString(request))
        seen.append(dict(context.invocation_metadata())["authorization"])
        outputs = [tensor.encode(name, INPUTS["x"]) for name in ("b", "a")]
        return inference_service_pb2.PredictResponse(outputs=outputs).SerializeToString()

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


def test_requests_without_an_id_get_different_ones(echo):
    with onnxserve.Client(echo) as one, onnxserve.Client(echo) as other:
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


def test_cancelling_a_task_cancels_its_call_on_the_server():
    arrived, left = threading.Event(), threading.Event()

    def wait(inputs):
        arrived.set()
        if testing.current_request().cancelled.wait(30):
            left.set()
        return inputs

    async def call(target):
        async with onnxserve.AsyncClient(target) as client:
            task = asyncio.create_task(client.predict("m", INPUTS))
            assert await asyncio.to_thread(arrived.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(left.wait, 20)

    with testing.serve({"m": wait}) as server:
        asyncio.run(call(server.target))


def test_an_async_client_made_outside_an_event_loop_is_refused():
    with pytest.raises(RuntimeError, match="no running event loop"):
        onnxserve.AsyncClient("localhost:1")


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
