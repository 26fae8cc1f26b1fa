"""More calls at a time on one connection than the server allows: each of them is answered, and none of them knows."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onnxserve import AsyncClient, Client
from support import zoo

CALLS = 1000
RETRIES = pytest.mark.parametrize("retries", [3, pytest.param(0, marks=pytest.mark.slow)])


@pytest.fixture
def server(serve):
    return serve({"slow": zoo.slow()}, max_connection_calls=32)


def inputs(number):
    return {"x": np.full((1, 1), number % 3, np.float32)}


@RETRIES
def test_all_calls_of_a_client_are_answered(server, retries):
    with Client(server.address, retries=retries) as client, ThreadPoolExecutor(CALLS) as pool:
        answers = list(pool.map(lambda i: client.predict("slow", inputs(i), timeout=600), range(CALLS)))
    assert [answer["y"].item() for answer in answers] == [i % 3 for i in range(CALLS)]


@RETRIES
def test_all_calls_of_an_asyncio_client_are_answered(server, retries):
    async def call_all():
        async with AsyncClient(server.address, retries=retries) as client:
            return await asyncio.gather(*(client.predict("slow", inputs(i), timeout=600) for i in range(CALLS)))

    answers = asyncio.run(call_all())
    assert [answer["y"].item() for answer in answers] == [i % 3 for i in range(CALLS)]
