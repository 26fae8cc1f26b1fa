"""A program that uses OpenTelemetry sees its calls, and finds the server's spans below them."""

import subprocess
import sys

import numpy as np
import pytest
import zoo
from otlp import attributes, receiver
from waiting import until

ROW = np.ones((1, 3), np.float32)

# In a process of its own: the tracer provider of a process can be set once.
PROGRAM = """
import asyncio, sys
import numpy as np
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
import onnxserve

target, endpoint, sampler = sys.argv[1:]
provider = TracerProvider(sampler={"on": ALWAYS_ON, "off": ALWAYS_OFF}[sampler])
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint)))
trace.set_tracer_provider(provider)
row = np.ones((1, 3), np.float32)

async def call():
    async with onnxserve.AsyncClient(target) as client:
        await client.predict("double", {"x": row})

mine = trace.get_tracer("t").start_as_current_span("mine")
with onnxserve.Client(target, metadata=[("kept", "yes")]) as client, mine:
    client.predict("double", {"x": row})
    try:
        client.predict("double", {"x": row[:, :2]})
    except onnxserve.InvalidArgument:
        pass
    asyncio.run(call())
"""


def run(server, collector, sampler):
    subprocess.run([sys.executable, "-c", PROGRAM, server.address, collector.endpoint, sampler], check=True, timeout=60)


@pytest.fixture
def collector():
    with receiver() as kept:
        yield kept


def test_calls_have_spans_and_the_server_s_are_below_them(serve, collector):
    server = serve({"double": zoo.double()}, otlp_endpoint=collector.endpoint, trace_ratio=0)
    run(server, collector, "on")
    spans = until(
        lambda: found if len(found := [s for s in collector.spans if s.name != "onnxserve.batch"]) == 7 else None
    )
    (mine,) = [span for span in spans if span.name == "mine"]
    calls = [span for span in spans if span.kind == 3]  # SPAN_KIND_CLIENT
    served = [span for span in spans if span.kind == 2]  # SPAN_KIND_SERVER
    assert {span.trace_id for span in spans} == {mine.trace_id}
    assert [span.parent_span_id for span in calls] == [mine.span_id] * 3
    assert {span.parent_span_id for span in served} == {span.span_id for span in calls}
    codes = sorted(attributes(span)["rpc.response.status_code"] for span in calls)
    assert codes == ["INVALID_ARGUMENT", "OK", "OK"]


def test_what_is_not_sampled_is_not_traced_by_the_server_either(serve, collector):
    server = serve({"double": zoo.double()}, otlp_endpoint=collector.endpoint, trace_ratio=0)
    run(server, collector, "off")
    assert collector.spans == []


def test_without_opentelemetry_the_client_works(serve):
    server = serve({"double": zoo.double()})
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import numpy as np, onnxserve\n"
        "with onnxserve.Client(sys.argv[1]) as client:\n"
        "    print(client.predict('double', {'x': np.ones((1, 3), np.float32)})['y'].tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, server.address], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == "[[2.0, 2.0, 2.0]]\n"
