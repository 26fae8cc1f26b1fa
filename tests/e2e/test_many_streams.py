"""More calls at a time than a connection takes."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onnxserve import AsyncClient, Client
from support import zoo

FEW, MANY = 4, 24  # calls that a connection takes, and those that are made
X = {"x": np.ones((1, 3), np.float32)}


@pytest.fixture
def without_collections():
    """No garbage is collected but by its references."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_streams_that_are_over_are_no_calls_of_their_connection(serve, without_collections):
    """Until the core's call is gone it is counted, and further ones are refused."""
    server = serve({"double": zoo.double()}, max_connection_calls=FEW)
    with Client(server.address) as client:
        for _ in range(5 * FEW):
            assert len([*client.stream("double", [X] * 3, timeout=10)]) == 3
        for _ in range(5):
            with ThreadPoolExecutor(FEW) as threads:  # each on a thread of its own there, too
                assert {*threads.map(lambda _: len(client.models(timeout=10)), range(FEW))} == {1}


def test_streams_beyond_the_calls_of_a_connection_wait_for_others(serve):
    server = serve({"double": zoo.double()}, max_connection_calls=FEW)
    begun = threading.Semaphore(0)
    together = threading.Event()

    def inputs():
        begun.release()
        yield X
        assert together.wait(60)
        yield X

    with Client(server.address) as client, ThreadPoolExecutor(MANY) as threads:
        streams = [threads.submit(lambda: len([*client.stream("double", inputs())])) for _ in range(MANY)]
        for _ in range(FEW):
            assert begun.acquire(timeout=60)
        together.set()
        assert [stream.result(60) for stream in streams] == [2] * MANY


def test_streams_of_tasks_beyond_the_calls_of_a_connection_wait_for_others(serve):
    """grpc.aio hides why their calls have ended."""
    server = serve({"double": zoo.double()}, max_connection_calls=FEW)

    async def run():
        begun, together = asyncio.Semaphore(0), asyncio.Event()

        async def inputs():
            begun.release()
            yield X
            await together.wait()
            yield X

        async def count():
            return len([answer async for answer in client.stream("double", inputs())])

        async with AsyncClient(server.address) as client:
            streams = [asyncio.create_task(count()) for _ in range(MANY)]
            for _ in range(MANY):
                await begun.acquire()
            together.set()
            return await asyncio.wait_for(asyncio.gather(*streams), 60)

    assert asyncio.run(run()) == [2] * MANY
