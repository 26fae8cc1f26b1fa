"""Connections that end by their age: callers find replicas that were added, and lose nothing on the way."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

from onnxserve import AsyncClient, Client, Unavailable
from support import zoo
from support.callers import Callers, asynchronous_predictions, generations, predictions, row, sequences, streams
from support.naming import NameServer
from support.streaming import Line, step
from support.waiting import until

MODELS = {"double": zoo.double(), "recurrent": zoo.recurrent(), "countdown": zoo.countdown()}
CONFIGS = {
    "recurrent": "state: [{input: s, output: s_out}]",
    "countdown": "state: [{input: total, output: total_out}]\nfeedback: {next: n}",
}
COUNTER = "state: [{input: count, output: count_out}]\nfeedback: {y: x}\nbatching: {max_rows: 1}"
AGE = 1.0
_ESTABLISHED = "01"


def connections(address):
    """The local ends of the connections to an address that there are now."""
    port = f":{int(address.rsplit(':', 1)[1]):04X}"
    files = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]  # gRPC's sockets are of the latter, for IPv4 too
    entries = [line.split() for file in files if file.exists() for line in file.read_text().splitlines()[1:]]
    return {local for _, local, remote, state, *_ in entries if remote.endswith(port) and state == _ESTABLISHED}


def see(address, number):
    """Wait until there have been so many connections to an address, all in all."""
    seen = set()
    until(lambda: seen.update(connections(address)) or len(seen) >= number, 30, every=0.05)


@pytest.mark.parametrize("grace", [0, AGE], ids=["no bound", "bound"])
def test_callers_do_not_notice(serve, grace):
    """Not even those that try nothing again. Streams and sequences do: they go on over another connection."""
    server = serve(MODELS, CONFIGS, max_connection_age=AGE, max_connection_age_grace=grace)
    callers = Callers()
    with Client(server.address) as client, Client(server.address, retries=0, coalesce=False) as once:
        callers.add("once", predictions(callers, once, "once"), 4)
        callers.add("asyncio", asynchronous_predictions(callers, lambda: AsyncClient(server.address), "asyncio", 2))
        callers.add("stream", streams(callers, client, "stream"), 2)
        callers.add("sequence", sequences(callers, client, "sequence"), 4)
        callers.add("generate", generations(callers, client, "generate"), 2)
        with callers.calling():
            see(server.address, 10)  # of three channels
            callers.go_on()
    assert callers.errors == []


def test_a_replica_that_was_added_is_found_though_none_stops(serve):
    """Without an age it would be when a connection breaks, which may be never."""
    old = serve({"double": zoo.double()}, host="127.0.0.2", max_connection_age=AGE)
    port = int(old.address.rsplit(":", 1)[1])
    serve({"double": zoo.double(), "added": zoo.double()}, host="127.0.0.3", port=port)
    with NameServer() as names, Client(names.target(port)) as client:
        names.addresses = ("127.0.0.2",)
        client.predict("double", row(0, 0))
        names.addresses = ("127.0.0.2", "127.0.0.3")
        until(lambda: any(model.name == "added" for model in client.models()), 10, every=0.02)


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_a_stream_whose_inputs_are_slow_to_come_moves_as_often_as_it_has_to(serve, kind):
    server = serve(MODELS, CONFIGS, max_connection_age=0.1)
    seen = {}  # the streams themselves, for names of those that are gone are given again

    def inputs():
        yield row(0, 0)
        until(lambda: seen.update(server.app.grpc.streams._live) or len(seen) > 6)  # more than it may fail in a row
        yield row(0, 1)

    async def collect():
        async with AsyncClient(server.address) as client:
            return [answer["y"] async for answer in client.stream("double", slowly(inputs()))]

    if kind == "AsyncClient":
        answers = asyncio.run(collect())
    else:
        with Client(server.address) as client:
            answers = [answer["y"] for answer in client.stream("double", inputs())]
    assert np.array_equal(answers, [2 * row(0, number)["x"] for number in range(2)])


async def slowly(inputs):
    """The inputs, taken on a thread of their own."""
    while (each := await asyncio.to_thread(next, inputs, None)) is not None:
        yield each


def test_without_retries_a_sequence_says_that_it_was_to_move_and_keeps_its_state(serve):
    server = serve(MODELS, CONFIGS, max_connection_age=1)
    x = {"x": np.ones((1, 2), np.float32)}
    with Client(server.address, retries=0) as client, client.sequence("recurrent") as sequence:
        assert sequence.step(x)["y"][0, 0] == 3
        until(lambda: not server.app.grpc.streams._live)
        with pytest.raises(Unavailable) as raised:
            sequence.step(x)
        assert raised.value.reason == "DRAINING"
        assert sequence.step(x)["y"][0, 0] == 4.5


def test_what_does_not_end_is_cut_off_when_the_grace_is_over(serve):
    server = serve(
        {"counter": zoo.slow_counter()}, {"counter": COUNTER}, max_connection_age=1, max_connection_age_grace=1
    )
    endless = step("a", 20, model="counter", shape=(1, 1))
    endless.steps.max = 10_000
    line = Line(server.stub).send(endless)
    answers = []
    with pytest.raises(grpc.RpcError) as raised:
        answers.extend(line.call)
    line.close()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert 0 < len(answers) < 10_000
    server.wait_for("counter", lambda load: load.running_jobs == 0)
