"""The same test for either client: in this process behind one face, or as a program in a process of its own."""

import asyncio
import inspect

import onnxserve

EITHER = """
import inspect, sys
import numpy as np
import onnxserve

row = np.ones((1, 3), np.float32)
x = {"x": row[:, :2]}

def some(count):
    return [{"x": row}] * count

async def make(target, **options):  # of the kind that the last argument names
    return getattr(onnxserve, sys.argv[-1])(target, **options)

async def given(result):
    return await result if inspect.isawaitable(result) else result

async def rest(answers):
    return [each async for each in answers] if inspect.isasyncgen(answers) else list(answers)

def first(answers):
    return anext(answers) if inspect.isasyncgen(answers) else next(answers)
"""
"""A program in a process of its own, for either client: what the blocking one returns, the asyncio one has awaited."""

_END = object()


class Blocking:
    """An AsyncClient, or a sequence of one, behind the face of its blocking twin."""

    def __init__(self, twin, loop):
        self._twin = twin
        self._loop = loop

    def __getattr__(self, name):
        value = getattr(self._twin, name)
        if not callable(value):
            return value
        return lambda *args, **kwargs: self._given(value(*args, **kwargs))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _given(self, result):
        if inspect.isawaitable(result):
            return self._loop.run_until_complete(result)
        if inspect.isasyncgen(result):
            return self._iterate(result)
        return Blocking(result, self._loop)

    def _iterate(self, answers):
        try:
            while (answer := self._loop.run_until_complete(anext(answers, _END))) is not _END:
                yield answer
        finally:
            self._loop.run_until_complete(answers.aclose())


class Either:
    """Makes clients of one class, which are all called like blocking ones, and closes them when the block ends.

    Args:
        kind: onnxserve.Client or onnxserve.AsyncClient.
    """

    def __init__(self, kind):
        self._kind = kind
        self._loop = asyncio.new_event_loop()
        self._clients = []

    def connect(self, target, **options):
        client = self._kind(target, **options) if self._kind is onnxserve.Client else self._blocking(target, options)
        self._clients.append(client)
        return client

    def _blocking(self, target, options):
        async def make():
            return self._kind(target, **options)

        return Blocking(self._loop.run_until_complete(make()), self._loop)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self._clients:
            client.close()
        self._loop.close()
