"""A replica that dies at once takes no answer with it but those of its sequences, and these callers are told.

The edge makes no difference: it is the kernel that closes the connections.
"""

import threading

import numpy as np
import pytest

from onnxserve import AsyncClient, Client, FailedPrecondition, OnnxserveError, Unavailable
from support import zoo
from support.callers import Callers, asynchronous_predictions, predictions, streams
from support.replicas import Replicas

MODELS = {"double": zoo.double(), "slow": zoo.slow(), "recurrent": zoo.recurrent()}
CONFIGS = {"recurrent": "state: [{input: s, output: s_out}]"}


@pytest.fixture
def replicas(launch):
    with Replicas(launch, MODELS, CONFIGS) as replicas:
        for _ in range(3):
            replicas.add()
        yield replicas


def kill(replicas, callers):
    """Kill a replica under load; its address leaves the name only after callers have called on for a while."""
    replica = replicas.live[0]
    replica.popen.kill()
    assert replica.popen.wait(30) == -9
    callers.go_on()
    replicas.forget(replica)
    callers.go_on()


def test_with_retries_nobody_notices(replicas):
    callers = Callers()
    with Client(replicas.target) as joined, Client(replicas.target, coalesce=False) as alone:
        callers.add("joined", predictions(callers, joined, "joined"), 8)
        callers.add("alone", predictions(callers, alone, "alone"), 4)
        callers.add("asyncio", asynchronous_predictions(callers, lambda: AsyncClient(replicas.target), "asyncio", 4))
        callers.add("stream", streams(callers, alone, "stream"), 2)
        with callers.calling():
            kill(replicas, callers)
    assert callers.errors == []


def test_without_retries_the_calls_in_flight_are_unavailable(replicas):
    """Runs of 20 ms for 32 callers: there always are some in flight."""
    callers, failed = Callers(), []
    with Client(replicas.target, retries=0, coalesce=False) as client:

        def work(caller):
            for number in callers.numbers():
                x = np.array([[40 + (caller + number) % 64 / 64]], np.float32)
                try:
                    answer = client.predict("slow", {"x": x})
                except OnnxserveError as error:
                    failed.append(error)
                else:
                    callers.note("once", answer["y"] == x)

        callers.add("once", work, 32)
        with callers.calling():
            kill(replicas, callers)
    assert callers.errors == []
    assert {type(error) for error in failed} == {Unavailable}


def test_sequences_on_it_are_lost_and_their_callers_told(replicas):
    """Those on the other replicas go on as if nothing had been."""
    lost, whole = [], []
    begun, killed = threading.Barrier(31), threading.Event()

    def run(client, number):
        state = np.float32(0)
        with client.sequence("recurrent") as sequence:
            try:
                for i in range(20):
                    if i == 10:
                        begun.wait(60)
                        assert killed.wait(60)
                    value = np.float32(number + i)
                    state = state / 2 + value
                    answer = sequence.step({"x": np.full((1, 2), value)})
                    assert answer["y"].tolist() == [[3 * state, 3 * state]]
            except FailedPrecondition as error:
                lost.append((number, i, error.reason))
            else:
                whole.append(number)

    with Client(replicas.target) as client:
        threads = [threading.Thread(target=run, args=(client, number)) for number in range(30)]
        for thread in threads:
            thread.start()
        begun.wait(60)
        replicas.live[0].popen.kill()
        replicas.live[0].popen.wait(30)
        killed.set()
        for thread in threads:
            thread.join(60)
    assert {(i, reason) for _, i, reason in lost} == {(10, "SEQUENCE_LOST")}
    assert len(lost) + len(whole) == 30
    assert len(whole) >= 15
