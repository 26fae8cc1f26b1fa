"""Client.generate and AsyncClient.generate against real servers."""

import asyncio
import itertools

import numpy as np
import pytest

from onnxserve import AsyncClient, Client, InvalidArgument, Stop, Unavailable
from support.stepping import CONFIGS, MODELS, counter, n
from support.waiting import until


def generated(address, asynchronous, *args, max_answers=None, **kwargs):
    """What generate() gives by either client; at most `max_answers` answers, then it is broken off."""
    if not asynchronous:
        with Client(address) as client:
            return list(itertools.islice(client.generate(*args, **kwargs), max_answers))

    async def gather():
        got = []
        async with AsyncClient(address) as client:
            answers = client.generate(*args, **kwargs)
            while len(got) != max_answers and (answer := await anext(answers, None)) is not None:
                got.append(answer)
            await answers.aclose()
        return got

    return asyncio.run(gather())


@pytest.fixture(params=[False, True], ids=["Client", "AsyncClient"])
def asynchronous(request):
    return request.param


def test_a_model_without_state_generates(server, asynchronous):
    answers = generated(server.address, asynchronous, "double", {"x": np.ones((2, 3), np.float32)}, max_steps=5)
    assert [answer["y"][0, 0] for answer in answers] == [2, 4, 8, 16, 32]


def test_a_model_with_state_generates_from_its_initial_state_and_keeps_none(server, asynchronous):
    for _ in range(2):
        answers = generated(
            server.address, asynchronous, "countdown", n(5), max_steps=9, stop=Stop("done"), outputs=["total_out"]
        )
        assert [answer["total_out"][0, 0] for answer in answers] == [5, 9, 12, 14, 15]


def test_a_lone_generation_that_is_broken_off_ends_on_the_server(server, asynchronous):
    assert len(generated(server.address, asynchronous, "slow", counter(20), max_answers=2, max_steps=10_000)) == 2
    until(lambda: not server.app.grpc.streams._live)


def test_a_lone_generation_whose_server_dies_says_so_and_begins_not_anew(launch, asynchronous):
    server, got = launch(MODELS, configs=CONFIGS), []

    async def run():
        async with AsyncClient(server.address) as client:
            async for answer in client.generate("slow", counter(20), max_steps=10_000):
                if not got:
                    server.popen.kill()
                got.append(answer)

    with pytest.raises(Unavailable):
        if asynchronous:
            asyncio.run(run())
        else:
            with Client(server.address) as client:
                for answer in client.generate("slow", counter(20), max_steps=10_000):
                    if not got:
                        server.popen.kill()
                    got.append(answer)
    assert got


def test_a_lone_generation_tells_what_is_wrong(server, asynchronous):
    with pytest.raises(InvalidArgument, match=r"steps\.max"):
        generated(server.address, asynchronous, "double", {"x": np.ones((2, 3), np.float32)}, max_steps=0)
