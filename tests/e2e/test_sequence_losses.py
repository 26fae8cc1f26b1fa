"""Sequences that are closed, lost, interrupted or used by two at a time, with either client."""

import asyncio
import signal
import threading

import numpy as np
import pytest

from onnxserve import (
    AsyncClient,
    Cancelled,
    Client,
    FailedPrecondition,
    InvalidArgument,
    OnnxserveError,
    ResourceExhausted,
)
from support.stepping import CONFIGS, MODELS, counter, expected, live, n, x
from support.waiting import until

SETTINGS = {"max_message_bytes": 1 << 20}
LONG = 1e6  # for zoo.slow_counter(): no test waits for its end


def test_a_sequence_may_end_before_its_generation(server, begin):
    sequence = begin(server.address, "countdown")
    answers = sequence.generate(n(1000), max_steps=1000)
    unasked = sequence.generate(n(1000), max_steps=1000)
    next(answers)
    sequence.close()
    answers.close()
    with pytest.raises(Cancelled, match="the sequence has been closed"):
        next(unasked)
    until(lambda: live(server) == 0)


def test_a_step_after_the_end_is_refused(server, begin):
    sequence = begin(server.address)
    sequence.step(x(1))
    sequence.close()
    for _ in range(2):
        with pytest.raises(Cancelled, match="the sequence has been closed"):
            sequence.step(x(1))


def lost(sequence, inputs):
    """Check that a step says that the state is lost, and goes on saying so."""
    for _ in range(2):
        with pytest.raises(FailedPrecondition) as raised:
            sequence.step(inputs)
        assert raised.value.reason == "SEQUENCE_LOST"


def test_a_call_that_fails_takes_the_state_along(server, begin):
    sequence = begin(server.address)
    sequence.step(x(1))
    with pytest.raises(ResourceExhausted):
        sequence.step({"x": np.zeros((200_000, 2), np.float32)})
    lost(sequence, x(1))


def test_a_call_that_fails_before_there_is_a_state_is_followed_by_another(server, begin):
    sequence = begin(server.address)
    with pytest.raises(ResourceExhausted):
        sequence.step({"x": np.zeros((200_000, 2), np.float32)})
    assert [sequence.step(x(value))["y"][0, 0] for value in (1, 2)] == expected([1, 2])


def test_a_first_step_that_fails_leaves_the_state_to_start_with(server, begin):
    other = begin(server.address)
    other.step(x(1), snapshot=True)
    sequence = begin(server.address, state=other.state)
    with pytest.raises(InvalidArgument):
        sequence.step({"x": np.zeros((1, 3), np.float32)})
    assert [sequence.step(x(value))["y"][0, 0] for value in (2, 3)] == expected([1, 2, 3])[1:]


@pytest.fixture
def interruptible():
    """Have SIGINT raise KeyboardInterrupt, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("steps", [0, 1])
def test_a_step_that_is_interrupted_leaves_no_answer_behind(server, steps):
    """After a step the state is lost with it; the first step can be made again."""
    with Client(server.address) as client, client.sequence("counter", outputs=["y", "count_out"]) as sequence:
        for _ in range(steps):
            sequence.step(counter())

        def interrupt():
            server.wait_for("counter", lambda load: load.running_jobs == 1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            sequence.step(counter(LONG))
        interrupting.join(30)
        if steps:
            lost(sequence, counter(1))
        else:
            answer = sequence.step(counter(1))
            assert (answer["y"], answer["count_out"]) == (1, 1)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_step_whose_task_is_cancelled_leaves_no_answer_behind(server, steps):
    async def run():
        async with AsyncClient(server.address) as client:
            sequence = client.sequence("counter", outputs=["y", "count_out"])
            for _ in range(steps):
                await sequence.step(counter())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sequence.step(counter(LONG)), 0.1)
            try:
                return await sequence.step(counter(1))
            except OnnxserveError as error:
                return error

    outcome = asyncio.run(run())
    if steps:
        assert outcome.reason == "SEQUENCE_LOST"
    else:
        assert (outcome["y"], outcome["count_out"]) == (1, 1)


def test_a_second_thread_is_told_to_wait_its_turn(server):
    with Client(server.address) as client, client.sequence("counter") as sequence:
        ended = []

        def step():
            with pytest.raises(Cancelled, match="the sequence has been closed"):
                sequence.step(counter(LONG))
            ended.append(True)

        other = threading.Thread(target=step)
        other.start()
        server.wait_for("counter", lambda load: load.running_jobs == 1)
        with pytest.raises(RuntimeError, match="one step at a time"):
            sequence.step(counter(1))
        sequence.close()
        other.join(30)
        assert ended


def test_a_second_task_is_told_to_wait_its_turn(server):
    async def run():
        async with AsyncClient(server.address) as client, client.sequence("counter") as sequence:
            waiting = asyncio.create_task(sequence.step(counter(LONG)))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="one step at a time"):
                await sequence.step(counter(1))
            await sequence.close()
            with pytest.raises(Cancelled, match="the sequence has been closed"):
                await waiting

    asyncio.run(run())


def test_a_step_that_waits_when_its_client_is_closed_is_not_taken_for_a_cancelled_task(server):
    async def run():
        client = AsyncClient(server.address)
        waiting = asyncio.create_task(client.sequence("counter").step(counter(LONG)))
        await asyncio.to_thread(server.wait_for, "counter", lambda load: load.running_jobs == 1)
        await client.close()
        with pytest.raises(Cancelled, match="the client has been closed"):
            await waiting

    asyncio.run(run())


def test_a_sequence_that_is_dropped_leaves_no_thread_behind(server):
    with Client(server.address) as client:
        client.sequence("recurrent").step(x(1))
        before = threading.active_count()
        for _ in range(10):
            client.sequence("recurrent").step(x(1))
        until(lambda: threading.active_count() <= before)
        until(lambda: live(server) == 0)


def test_a_state_that_is_lost_with_its_server_is_told(launch, begin):
    server = launch(MODELS, configs=CONFIGS)
    sequence = begin(server.address)
    sequence.step(x(1))
    server.popen.kill()
    server.popen.wait(30)
    with pytest.raises(FailedPrecondition) as raised:
        sequence.step(x(1))
    assert raised.value.reason == "SEQUENCE_LOST"
