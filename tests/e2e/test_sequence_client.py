"""Client.sequence and AsyncClient.sequence against real servers."""

import asyncio
import threading

import numpy as np
import pytest

from onnxserve import AsyncClient, Cancelled, Client, InvalidArgument, Stop, Unavailable
from support.stepping import CONFIGS, MODELS, expected, live, n, x
from support.waiting import until


def test_steps_go_on_from_one_another(server, begin):
    sequence = begin(server.address)
    values = [1, 2, 3, 4]
    assert [sequence.step(x(value))["y"][0, 0] for value in values] == expected(values)


def test_the_end_of_the_block_frees_the_state(server):
    with Client(server.address) as client:
        with client.sequence("recurrent") as sequence:
            sequence.step(x(1))
            assert live(server) == 1
        until(lambda: live(server) == 0)


def test_a_step_that_fails_leaves_the_sequence_as_it_was(server, begin):
    sequence = begin(server.address)
    sequence.step(x(1))
    with pytest.raises(InvalidArgument) as raised:
        sequence.step({"x": np.zeros((1, 3), np.float32)})
    assert raised.value.violations[0].field == "inputs[0].shape"
    assert sequence.step(x(1))["y"][0, 0] == 4.5


def test_a_state_starts_another_sequence(server, begin):
    sequence = begin(server.address)
    assert sequence.state is None
    sequence.step(x(1), snapshot=True)
    other = begin(server.address, state=sequence.state)
    assert other.step(x(2))["y"][0, 0] == sequence.step(x(2))["y"][0, 0] == 7.5


def test_steps_are_generated_until_a_stop(server, begin):
    sequence = begin(server.address, "countdown", outputs=["next", "total_out"])
    answers = list(sequence.generate(n(5), max_steps=100, stop=Stop("done")))
    assert [answer["next"][0, 0] for answer in answers] == [4, 3, 2, 1, 0]
    assert answers[-1]["total_out"][0, 0] == 15
    assert len(list(sequence.generate(n(50), max_steps=3))) == 3
    assert len(list(sequence.generate(n(50), max_steps=100, stop=Stop("next", 40)))) == 10


def test_a_generation_that_is_broken_off_ends_and_the_sequence_goes_on(server, begin):
    sequence = begin(server.address, "countdown", outputs=["next", "total_out"])
    answers = sequence.generate(n(1000), max_steps=1000)
    assert next(answers)["next"][0, 0] == 999
    answers.close()
    assert sequence.step(n(7))["next"][0, 0] == 6


def test_a_step_breaks_off_a_generation_that_waits_to_be_asked_for_more(server, begin):
    sequence = begin(server.address, "countdown", outputs=["next"])
    answers = sequence.generate(n(1000), max_steps=1000)
    next(answers)
    assert [sequence.step(n(value))["next"][0, 0] for value in (7, 8)] == [6, 7]
    with pytest.raises(Cancelled, match="ended by another step of the sequence"):
        next(answers)
    assert sequence.step(n(9))["next"][0, 0] == 8


def test_a_generation_breaks_off_the_one_before(server, begin):
    sequence = begin(server.address, "countdown", outputs=["next"])
    first = sequence.generate(n(1000), max_steps=1000)
    next(first)
    assert [answer["next"][0, 0] for answer in sequence.generate(n(3), max_steps=3)] == [2, 1, 0]
    with pytest.raises(Cancelled, match="ended by another step of the sequence"):
        next(first)


@pytest.mark.parametrize("turns", [0, 1, 3, 10])
def test_a_step_after_an_asynchronous_generation_that_was_dropped_is_that_step(server, turns):
    """The event loop closes the generator in a task of its own, before the step or beside it."""

    async def run():
        async with AsyncClient(server.address) as client, client.sequence("countdown", outputs=["next"]) as sequence:
            async for _ in sequence.generate(n(1000), max_steps=1000):
                break
            for _ in range(turns):
                await asyncio.sleep(0)
            return [(await sequence.step(n(value)))["next"][0, 0] for value in (7, 8)]

    assert asyncio.run(run()) == [6, 7]


def test_a_hundred_sequences_move_to_another_server_when_theirs_stops(launch):
    """They are begun on one server, which then stops; the answers are those of an undisturbed run."""
    servers = [launch(MODELS, configs=CONFIGS) for _ in range(2)]
    target = "ipv4:" + ",".join(server.address for server in servers)
    values = np.random.default_rng(0).integers(0, 9, (100, 12))
    half, go_on = threading.Barrier(101), threading.Event()
    wrong = []

    def run(number, client):
        with client.sequence("recurrent", timeout=None) as sequence:
            got = [sequence.step(x(value))["y"][0, 0] for value in values[number][:6]]
            half.wait(60)
            got += [sequence.step(x(value))["y"][0, 0] for value in values[number][6:9]]
            assert go_on.wait(60)
            got += [sequence.step(x(value))["y"][0, 0] for value in values[number][9:]]
        if not np.allclose(got, expected(values[number])):
            wrong.append((number, got))

    with Client(target) as client:
        threads = [threading.Thread(target=run, args=(number, client)) for number in range(100)]
        for thread in threads:
            thread.start()
        half.wait(60)
        code, _ = servers[0].stop()
        go_on.set()
        for thread in threads:
            thread.join(60)
    assert code == 0
    assert wrong == []
    assert servers[1].stop()[0] == 0


def test_an_asynchronous_sequence_moves_that_waits_while_its_server_stops(launch):
    """Its call is over when the next step is asked for, and the state lies there unread."""
    servers = [launch(MODELS, configs=CONFIGS) for _ in range(2)]
    target = "ipv4:" + ",".join(server.address for server in servers)

    async def run():
        async with (
            AsyncClient(target, load_balancing="pick_first") as client,
            client.sequence("recurrent") as sequence,
        ):
            before = await sequence.step(x(1))
            assert (await asyncio.to_thread(servers[0].stop))[0] == 0
            return [before["y"][0, 0], (await sequence.step(x(2)))["y"][0, 0]]

    assert asyncio.run(run()) == expected([1, 2])


def test_no_server_is_reported(begin, launch):
    server = launch(MODELS, configs=CONFIGS)
    server.stop()
    with pytest.raises(Unavailable):
        begin(server.address).step(x(1))
