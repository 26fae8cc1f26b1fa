"""Models to make steps of, what they are asked, and a sequence of AsyncClient to be used like one of Client."""

import asyncio

import numpy as np

from onnxserve import AsyncClient
from support import zoo

MODELS = {
    "recurrent": zoo.recurrent(),
    "countdown": zoo.countdown(),
    "counter": zoo.slow_counter(),
    "double": zoo.double(),
    "slow": zoo.slow(),
}
CONFIGS = {
    "recurrent": "state: [{input: s, output: s_out}]",
    "countdown": "state: [{input: total, output: total_out}]\nfeedback: {next: n}",
    "counter": "state: [{input: count, output: count_out}]\nbatching: {max_rows: 1}",
    "double": "feedback: {y: x}",
    "slow": "feedback: {y: x}\nbatching: {max_rows: 1}",
}


def x(value):
    return {"x": np.full((1, 2), value, np.float32)}


def n(value):
    return {"n": np.full((1, 1), value, np.float32)}


def counter(value=0.0):
    return {"x": np.full((1, 1), value, np.float32)}


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

    def end(self):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


def live(server):
    return sum(len(model.sequences) for model in server.app.engine.table.models())
