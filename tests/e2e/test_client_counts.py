"""A program that uses OpenTelemetry counts its requests, whether or not somebody is there to answer them."""

import json
import subprocess
import sys

import pytest

from support import zoo
from support.either import EITHER
from support.stepping import CONFIGS, MODELS

SERVICE = "onnxserve.v1.InferenceService"
NOBODY = "ipv4:127.0.0.1:1"

# In a process of its own: the meter provider of a process can be set once. What it prints is the export.
SET_UP = """
import asyncio, contextlib, json
from concurrent.futures import ThreadPoolExecutor
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

target = sys.argv[1]
reader = InMemoryMetricReader()

def set_up():
    metrics.set_meter_provider(MeterProvider([reader]))
"""
OF_ALL_KINDS = """
async def main():
    set_up()
    client = await make(target)
    await given(client.predict("double", {"x": row}, request_id="mine"))
    with contextlib.suppress(onnxserve.InvalidArgument):
        await given(client.predict("double", x))
    await rest(client.stream("double", some(3)))
    sequence = client.sequence("countdown")
    await given(sequence.step({"n": np.full((1, 1), 9, np.float32)}))
    await given(sequence.step({"n": np.full((1, 1), 8, np.float32)}))
    await rest(sequence.generate({"n": np.full((1, 1), 7, np.float32)}, max_steps=5))
    await given(sequence.close())
    await rest(client.generate("double", {"x": row}, max_steps=5))
    await given(client.models())
    await given(client.ready("double"))
    await given(client.close())
"""
JOINED = """
async def main():
    set_up()
    client = await make(target)
    inputs = {"x": np.full((1, 1), 10, np.float32)}
    for _ in range(2):  # in the first of which the client learns that the model can be joined
        if isinstance(client, onnxserve.AsyncClient):
            answers = await asyncio.gather(*(client.predict("many", inputs) for _ in range(64)))
        else:
            with ThreadPoolExecutor(64) as pool:
                answers = [*pool.map(lambda _: client.predict("many", inputs), range(64))]
    assert len({id(answer.receipt) for answer in answers}) < 32  # those that travelled together share one
    await given(client.close())
"""
SET_UP_LATE = """
async def main():
    client = await make(target)
    await given(client.predict("double", {"x": row}))
    set_up()
    await given(client.predict("double", {"x": row}))
    await given(client.close())
"""
UNRESOLVED = """
async def main():
    set_up()
    client = await make("dns:///no-such-host.invalid")
    with contextlib.suppress(onnxserve.Unavailable, onnxserve.DeadlineExceeded):
        await given(client.predict("double", {"x": row}, timeout=1))
    await given(client.close())
"""
UNANSWERED = """
async def main():
    set_up()
    client = await make(target, retries=1)
    with contextlib.suppress(onnxserve.Unavailable):
        await rest(client.stream("double", some(5), window=2, timeout=0.5))
    with contextlib.suppress(onnxserve.Unavailable):
        await given(client.sequence("recurrent", timeout=0.5).step(x))
    with contextlib.suppress(onnxserve.Unavailable):
        await rest(client.generate("slow", x, max_steps=5, timeout=0.5))
    await given(client.close())
"""
OF_MADE_UP_NAMES = """
async def main():
    set_up()
    client = await make(target, retries=0)
    for number in range(1100):
        with contextlib.suppress(onnxserve.Unavailable):
            await given(client.predict(f"model {number}", {"x": row}))
    await given(client.close())
"""
TELL = """
asyncio.run(main())
print(reader.get_metrics_data().to_json())
"""


@pytest.fixture(scope="module")
def address(serving, tmp_path_factory):
    with serving(zoo.write(tmp_path_factory.mktemp("models"), MODELS | {"many": zoo.slow()}, CONFIGS)) as server:
        yield server.address


@pytest.fixture(params=["Client", "AsyncClient"])
def counted(request):
    """Run a program with either client; gives its counts, {(model, method): requests}."""

    def run(program, target):
        command = [sys.executable, "-c", EITHER + SET_UP + program + TELL, target, request.param]
        done = subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE, text=True)
        (resource,) = json.loads(done.stdout)["resource_metrics"]
        ((metric,),) = (scope["metrics"] for scope in resource["scope_metrics"])
        assert (metric["name"], metric["unit"]) == ("onnxserve.client.requests", "{request}")
        assert metric["data"]["is_monotonic"]
        counts = {}
        for point in metric["data"]["data_points"]:
            assert point["attributes"].keys() == {"onnxserve.model", "rpc.method"}
            service, _, method = point["attributes"]["rpc.method"].partition("/")
            assert service == SERVICE
            counts[point["attributes"]["onnxserve.model"], method] = point["value"]
        return counts

    return run


def test_each_request_counts_once_and_nothing_else_does(counted, address):
    assert counted(OF_ALL_KINDS, address) == {
        ("double", "Predict"): 2,
        ("double", "Stream"): 3 + 1,  # of stream(), and the generation
        ("countdown", "Stream"): 2 + 1,
    }


def test_calls_that_travel_together_count_each(counted, address):
    assert counted(JOINED, address) == {("many", "Predict"): 2 * 64}


def test_requests_before_the_provider_was_set_up_count_too(counted, address):
    assert counted(SET_UP_LATE, address) == {("double", "Predict"): 2}


def test_a_request_to_a_name_that_does_not_resolve_counts(counted):
    assert counted(UNRESOLVED, "") == {("double", "Predict"): 1}


def test_requests_that_nobody_answers_count_once_though_they_are_sent_again(counted):
    counts = counted(UNANSWERED, NOBODY)
    assert 1 <= counts.pop(("double", "Stream")) <= 2  # as many as its window took
    assert counts == {("recurrent", "Stream"): 1, ("slow", "Stream"): 1}


def test_names_without_end_make_no_series_without_end(counted):
    counts = counted(OF_MADE_UP_NAMES, NOBODY)
    assert len(counts) == 1001
    assert counts["_OTHER", "Predict"] == 100
