"""A program that uses OpenTelemetry sees its calls, and finds the server's spans below them."""

import subprocess
import sys

import pytest

from support import zoo
from support.either import EITHER
from support.otlp import attributes, receiver
from support.stepping import CONFIGS, MODELS
from support.waiting import until

SERVER, CLIENT = 2, 3  # SPAN_KIND_…
UNSET, ERROR = 0, 2  # STATUS_CODE_…

# In a process of its own: the tracer provider of a process can be set once.
SET_UP = """
import asyncio, contextlib, sys
import numpy as np
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
import onnxserve

target, endpoint, sampler = sys.argv[1:4]
provider = TracerProvider(sampler={"on": ALWAYS_ON, "off": ALWAYS_OFF}[sampler])
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint)))
trace.set_tracer_provider(provider)
row = np.ones((1, 3), np.float32)

def below(name):
    return trace.get_tracer("t").start_as_current_span(name)
"""
CALLS = """
async def call():
    async with onnxserve.AsyncClient(target) as client:
        await client.predict("double", {"x": row})

with onnxserve.Client(target, metadata=[("kept", "yes")]) as client, below("mine"):
    client.predict("double", {"x": row})
    try:
        client.predict("double", {"x": row[:, :2]})
    except onnxserve.InvalidArgument:
        pass
    asyncio.run(call())
"""
STREAMS = """
async def main():
    client = await make(target)
    with below("stream"):
        await rest(client.stream("double", some(3)))
    with below("stream that fails"), contextlib.suppress(onnxserve.InvalidArgument):
        await rest(client.stream("double", [*some(1), x]))
    with below("stream whose errors are returned"):
        await rest(client.stream("double", [*some(1), x], return_errors=True))
    with below("stream that is left"):
        answers = client.stream("double", some(2), window=1)
        await given(first(answers))
        await given(answers.aclose() if inspect.isasyncgen(answers) else answers.close())
    with below("stream of what cannot be sent"), contextlib.suppress(TypeError):
        await rest(client.stream("double", [{"x": [1]}]))
    with below("stream that is not begun"):
        client.stream("double", some(1))
    with below("sequence"):
        sequence = client.sequence("recurrent")
        await given(sequence.step(x))
        with contextlib.suppress(onnxserve.InvalidArgument):
            await given(sequence.step({"x": row}))
        await given(sequence.step(x))
        await given(sequence.close())
    with below("steps"):
        await rest(client.generate("double", {"x": row}, max_steps=3))
    with below("steps that fail"), contextlib.suppress(onnxserve.InvalidArgument):
        await rest(client.generate("double", x, max_steps=3))
    with below("steps that are left"):
        answers = client.generate("double", {"x": row}, max_steps=10_000)
        await given(first(answers))
        await given(answers.aclose() if inspect.isasyncgen(answers) else answers.close())
    await given(client.close())

asyncio.run(main())
"""
# Of a stream, and a sequence, on a server that stops when half of it is done: the line from stdin says that it has.
MOVING = """
async def main():
    client = await make(target, load_balancing="pick_first")

    def requests():
        yield from some(3)
        print("half", flush=True)
        sys.stdin.readline()
        yield from some(3)

    sequence = client.sequence("recurrent")
    await given(sequence.step(x))
    assert len(await rest(client.stream("double", requests()))) == 6
    await given(sequence.step(x))
    await given(sequence.close())
    await given(client.close())

asyncio.run(main())
"""


def command(program, target, collector, sampler, *more):
    return [sys.executable, "-c", SET_UP + program, target, collector.endpoint, sampler, *more]


def run(server, collector, sampler, program=CALLS, *more):
    subprocess.run(command(program, server.address, collector, sampler, *more), check=True, timeout=60)


@pytest.fixture
def collector():
    with receiver() as kept:
        yield kept


def test_calls_have_spans_and_the_server_s_are_below_them(collector, serve):
    server = serve({"double": zoo.double()}, otlp_endpoint=collector.endpoint, trace_ratio=0)
    run(server, collector, "on")
    spans = until(
        lambda: found if len(found := [s for s in collector.spans if s.name != "onnxserve.batch"]) == 7 else None
    )
    (mine,) = [span for span in spans if span.name == "mine"]
    calls = [span for span in spans if span.kind == CLIENT]
    served = [span for span in spans if span.kind == SERVER]
    assert {span.trace_id for span in spans} == {mine.trace_id}
    assert [span.parent_span_id for span in calls] == [mine.span_id] * 3
    assert {span.parent_span_id for span in served} == {span.span_id for span in calls}
    codes = sorted(attributes(span)["rpc.response.status_code"] for span in calls)
    assert codes == ["INVALID_ARGUMENT", "OK", "OK"]


@pytest.mark.parametrize("client", ["Client", "AsyncClient"])
def test_a_stream_has_one_span_to_its_end_and_its_requests_are_below_it(collector, serve, client):
    server = serve(MODELS, CONFIGS, otlp_endpoint=collector.endpoint, trace_ratio=0)
    run(server, collector, "on", EITHER + STREAMS, client)
    expected = {  # by the span above: code and status of the call, and how many requests it had
        "stream": ("OK", UNSET, 3),
        "stream that fails": ("INVALID_ARGUMENT", ERROR, 2),
        "stream whose errors are returned": ("OK", UNSET, 2),
        "stream that is left": ("CANCELLED", UNSET, None),
        "stream of what cannot be sent": (None, ERROR, 0),
        "sequence": ("OK", UNSET, 3),
        "steps": ("OK", UNSET, 1),
        "steps that fail": ("INVALID_ARGUMENT", ERROR, 1),
        "steps that are left": ("CANCELLED", UNSET, 1),
    }
    calls = {span.parent_span_id: span for span in collector.spans if span.kind == CLIENT}
    above = {span.name: span for span in collector.spans if span.name in expected}
    assert {name: found(calls[span.span_id]) for name, span in above.items()} == {
        name: (code, status) for name, (code, status, _) in expected.items()
    }
    assert len(calls) == len(expected)
    for name, (_, _, count) in expected.items():
        call = calls[above[name].span_id]
        assert call.trace_id == above[name].trace_id
        until(lambda: len(requests := served(collector, call)) == count or (count is None and requests))  # noqa: B023
        assert {span.trace_id for span in served(collector, call)} <= {call.trace_id}


@pytest.mark.parametrize("client", ["Client", "AsyncClient"])
def test_a_stream_that_moves_to_another_server_is_one_trace(collector, launch, client):
    """No span of the program's own is above it, so that another call would begin another trace."""
    flags = ("--otlp-endpoint", collector.endpoint, "--trace-ratio", 0)
    servers = [launch(MODELS, *flags, configs=CONFIGS) for _ in range(2)]
    target = "ipv4:" + ",".join(server.address for server in servers)
    program = command(EITHER + MOVING, target, collector, "on", client)
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "half\n"
        assert servers[0].stop()[0] == 0
        running.communicate("\n", timeout=60)
    assert running.returncode == 0
    servers[1].stop()
    calls = [span for span in collector.spans if span.kind == CLIENT]
    assert [found(span) for span in calls] == [("OK", UNSET)] * 2
    steps, requests = sorted(len(served(collector, span)) for span in calls)
    assert steps == 2
    assert requests >= 6  # more where the first server refused what came too late


def found(call):
    """The code in a call's span, and its status."""
    return attributes(call).get("rpc.response.status_code"), call.status.code


def served(collector, call):
    """The spans of the server below a call's."""
    return [span for span in collector.spans if span.kind == SERVER and span.parent_span_id == call.span_id]


def test_what_is_not_sampled_is_not_traced_by_the_server_either(collector, serve):
    server = serve(MODELS, CONFIGS, otlp_endpoint=collector.endpoint, trace_ratio=0)
    run(server, collector, "off")
    run(server, collector, "off", EITHER + STREAMS, "Client")
    assert collector.spans == []


def test_without_opentelemetry_the_client_works(serve):
    server = serve({"double": zoo.double()})
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import numpy as np, onnxserve\n"
        "with onnxserve.Client(sys.argv[1]) as client:\n"
        "    print(client.predict('double', {'x': np.ones((1, 3), np.float32)})['y'].tolist())\n"
        "    print(len([*client.stream('double', [{'x': np.ones((1, 3), np.float32)}])]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, server.address], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == "[[2.0, 2.0, 2.0]]\n1\n"
