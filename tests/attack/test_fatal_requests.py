"""Requests that end the server which runs them, in a way that no check of inputs can see, beside polite ones."""

import asyncio
import signal
import threading

import numpy as np
import pytest

from onnxserve import AsyncClient, Client, ServersBroke
from support import zoo
from support.callers import Callers
from support.supervising import Supervised

pytestmark = pytest.mark.timeout(600)  # a server that has died is started anew, several times


TIMEOUT = 300  # seconds of a polite call: on a busy machine it takes one for a server to be there again


def x(value):
    return {"x": np.array([[value]], np.int64)}


def polite(callers, client, kind):
    def work(caller):
        for number in callers.numbers():
            value = 1000 * caller + number % 1000
            callers.note(kind, client.predict("fatal", x(value), timeout=TIMEOUT)["y"].tolist() == [[2 * value]])

    return work


def polite_tasks(callers, target, kind, tasks):
    async def call(client, task):
        async for number in callers.asynchronous_numbers():
            value = 1000 * task + number % 1000
            callers.note(
                kind, (await client.predict("fatal", x(value), timeout=TIMEOUT))["y"].tolist() == [[2 * value]]
            )

    async def run():
        async with AsyncClient(target) as client, asyncio.TaskGroup() as group:
            for task in range(tasks):
                group.create_task(call(client, task))

    return lambda _: asyncio.run(run())


def polite_stream(callers, client, kind):
    def work(caller):
        values = []

        def inputs():
            for number in callers.numbers():
                values.append(1000 * caller + number % 1000)
                yield x(values[-1])

        for number, answer in enumerate(client.stream("fatal", inputs(), timeout=TIMEOUT)):
            callers.note(kind, answer["y"].tolist() == [[2 * values[number]]])

    return work


def fatal_calls(client, target):
    """The ways in which a fatal request is made, each by a caller of its own; each must end with ServersBroke."""

    def unary():
        client.predict("fatal", x(zoo.FATAL))

    def asynchronous():
        async def call():
            async with AsyncClient(target) as own:
                await own.predict("fatal", x(zoo.FATAL))

        asyncio.run(call())

    def stream():
        list(client.stream("fatal", [x(zoo.FATAL)]))

    def together():
        outcomes = client.stream("fatal", [x(1), x(zoo.FATAL), x(2)], return_errors=True)
        first, error, last = outcomes
        assert (first["y"].item(), last["y"].item()) == (2, 4)
        raise error

    return [unary, together, asynchronous, stream]


def test_polite_calls_wait_for_the_only_server_apart_from_the_fatal_one(launch, attack):
    """All of them broke, and there is no connection for longer than a turn is waited for."""
    callers, rounds = Callers(pause=0.001), attack.size(1, 4)
    with Supervised(launch, {"fatal": zoo.fatal()}, 1) as servers, Client(servers.target) as client:
        callers.add("unary", polite(callers, client, "unary"), 8)
        callers.add("asyncio", polite_tasks(callers, servers.target, "asyncio", 8))
        callers.add("stream", polite_stream(callers, client, "stream"), 2)
        with callers.calling():
            for number in range(1, rounds + 1):
                with pytest.raises(ServersBroke, match="two servers broke"):
                    client.predict("fatal", x(zoo.FATAL))
                servers.wait_for_all(2 * number)
                callers.go_on()
        assert callers.errors == []
        assert servers.deaths == [-signal.SIGFPE] * 2 * rounds
    attack.count("fatal requests to the only server", rounds)


def test_callers_of_fatal_requests_get_their_errors_and_the_polite_ones_their_answers(launch, attack):
    """One at a time, for requests that end servers may meet by chance on any number of them."""
    callers, kinds, rounds = Callers(pause=0.02), attack.size(2, 4), attack.size(1, 4)
    with Supervised(launch, {"fatal": zoo.fatal()}, 3) as servers, Client(servers.target) as client:
        callers.add("unary", polite(callers, client, "unary"), 8)
        callers.add("asyncio", polite_tasks(callers, servers.target, "asyncio", 6))
        callers.add("stream", polite_stream(callers, client, "stream"), 2)
        turn, errors = threading.Lock(), []

        def make(call):
            for _ in range(rounds):
                with turn:
                    before = len(servers.deaths)
                    with pytest.raises(ServersBroke, match="two servers broke") as caught:
                        call()
                    errors.append(caught.value)
                    servers.wait_for_all(before + 2)
                    callers.go_on()

        with callers.calling():
            fatal = [
                threading.Thread(target=make, args=(call,)) for call in fatal_calls(client, servers.target)[:kinds]
            ]
            for thread in fatal:
                thread.start()
            for thread in fatal:
                thread.join()
        assert callers.errors == []
        assert len(errors) == kinds * rounds
        assert servers.deaths == [-signal.SIGFPE] * 2 * len(errors)
    attack.count("fatal requests", len(errors))
    attack.count("deaths of servers", len(servers.deaths))
    attack.count("answers to polite requests", callers.answered.total())
