"""Servers of onnxserve.testing whose clients leave, that are closed, or that have many callers."""

import asyncio
import threading

import numpy as np
import pytest

import onnxserve
from onnxserve import testing
from support.functions import FOR_EVER, X, double, wait_for_cancellation


def test_closing_the_client_ends_its_calls_and_the_server_goes_on(serve_functions):
    running, ended = threading.Event(), []
    wait = wait_for_cancellation([])
    server = serve_functions({"slow": lambda inputs: running.set() or wait(inputs), "double": double})
    client = onnxserve.Client(server.target)

    def call():
        with pytest.raises(onnxserve.Cancelled):
            client.predict("slow", X, timeout=None)
        ended.append(True)

    thread = threading.Thread(target=call)
    thread.start()
    assert running.wait(FOR_EVER)
    client.close()
    thread.join(FOR_EVER)
    assert ended
    with onnxserve.Client(server.target) as other:
        assert other.predict("double", X)["y"].tolist() == [[2, 4]]


def test_closing_the_server_ends_what_runs_and_what_waits_for_a_thread(serve_functions):
    running, outcomes = threading.Event(), []
    left = []
    wait = wait_for_cancellation(left)
    server = serve_functions({"slow": lambda inputs: running.set() or wait(inputs)}, threads=1)

    def call(client):
        try:
            client.predict("slow", X, timeout=None)
        except onnxserve.OnnxserveError as error:
            outcomes.append(type(error))

    with onnxserve.Client(server.target, retries=0) as client:
        threads = [threading.Thread(target=call, args=(client,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert running.wait(FOR_EVER)
        server.close()
        for thread in threads:
            thread.join(FOR_EVER)
    assert len(outcomes) == 3
    assert {*outcomes} <= {onnxserve.Cancelled, onnxserve.Unavailable}
    assert left


def test_many_callers_are_answered_at_a_time(serve_functions):
    together = threading.Barrier(8)

    def meet(inputs):
        together.wait(FOR_EVER)
        return inputs

    async def call():
        async with onnxserve.AsyncClient(server.target) as client:
            return await asyncio.gather(*(client.predict("meet", {"x": np.full(1, n)}) for n in range(8)))

    server = serve_functions({"meet": meet}, threads=8)
    assert [answer["x"].item() for answer in asyncio.run(call())] == [*range(8)]


def test_closing_leaves_no_thread_and_frees_the_port():
    before = {*threading.enumerate()}
    with testing.serve({"double": double}) as server, onnxserve.Client(server.target) as client:
        client.predict("double", X)
    assert not [thread for thread in {*threading.enumerate()} - before if "onnxserve-testing" in thread.name]
    with onnxserve.Client(server.target, retries=0) as client, pytest.raises(onnxserve.Unavailable):
        client.predict("double", X)
