"""Client.sequence and AsyncClient.sequence against real servers."""

import asyncio
import threading

import numpy as np
import pytest
import zoo
from waiting import until

from onnxserve import AsyncClient, Client, FailedPrecondition, InvalidArgument, Stop, Unavailable

MODELS = {"recurrent": zoo.recurrent(), "countdown": zoo.countdown(), "slow": zoo.slow()}
CONFIGS = {
    "recurrent": "state: [{input: s, output: s_out}]",
    "countdown": "state: [{input: total, output: total_out}]\nfeedback: {next: n}",
    "slow": "feedback: {y: x}\nbatching: {max_rows: 1}",
}


def x(value):
    return {"x": np.full((1, 2), value, np.float32)}


def n(value):
    return {"n": np.full((1, 1), value, np.float32)}


def expected(values):
    state, answers = 0.0, []
    for value in values:
        state = state / 2 + value
        answers.append(3 * state)
    return answers


class Blocking:
    """A sequence of AsyncClient behind the face of Client's, so that one test is for both."""

    def __init__(self, target, model, **kwargs):
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._make(target))
        self._sequence = self._client.sequence(model, **kwargs)

    @staticmethod
    async def _make(target):
        return AsyncClient(target)

    @property
    def state(self):
        return self._sequence.state

    def step(self, *args, **kwargs):
        return self._loop.run_until_complete(self._sequence.step(*args, **kwargs))

    def generate(self, *args, **kwargs):
        answers = self._sequence.generate(*args, **kwargs)
        try:
            while (answer := self._loop.run_until_complete(anext(answers, None))) is not None:
                yield answer
        finally:
            self._loop.run_until_complete(answers.aclose())

    def close(self):
        self._loop.run_until_complete(self._sequence.close())
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=[False, True], ids=["Client", "AsyncClient"])
def begin(request):
    """Begin a sequence with either client; it ends with the test."""
    ends = []

    def start(target, model="recurrent", **kwargs):
        if request.param:
            sequence = Blocking(target, model, **kwargs)
        else:
            client = Client(target)
            ends.append(client.close)
            sequence = client.sequence(model, **kwargs)
        ends.append(sequence.close)
        return sequence

    yield start
    for end in reversed(ends):
        end()


def live(server):
    return sum(len(model.sequences) for model in server.app.engine.models())


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


def test_a_hundred_sequences_move_to_another_server_when_theirs_stops(launch):
    """They are begun on one server, which then stops; the answers are those of an undisturbed run."""
    servers = [launch(MODELS, configs=CONFIGS) for _ in range(2)]
    target = "ipv4:" + ",".join(server.address for server in servers)
    values = np.random.default_rng(0).integers(0, 9, (100, 12))
    half, go_on = threading.Barrier(101), threading.Event()
    wrong = []

    def run(number, client):
        with client.sequence("recurrent") as sequence:
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


def test_a_state_that_is_lost_with_its_server_is_told(launch, begin):
    server = launch(MODELS, configs=CONFIGS)
    sequence = begin(server.address)
    sequence.step(x(1))
    server.popen.kill()
    server.popen.wait(30)
    with pytest.raises(FailedPrecondition) as raised:
        sequence.step(x(1))
    assert raised.value.reason == "SEQUENCE_LOST"


def test_no_server_is_told(begin, launch):
    server = launch(MODELS, configs=CONFIGS)
    server.stop()
    with pytest.raises(Unavailable):
        begin(server.address).step(x(1))
