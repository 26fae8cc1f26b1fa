"""Fixtures for calls that travel together."""

import contextlib

import pytest

from support.coalescing import GET_MODEL, PREDICT, Server, Tasks, Threads, connected


@pytest.fixture
def server(serve):
    doubler = Server()

    def predict(message, context):
        return doubler.predict(message, context)  # which tests replace

    doubler.address = serve({PREDICT: predict, GET_MODEL: doubler.get_model}, workers=32)
    doubler.stop = serve.stop
    yield doubler
    doubler.open.set()


@pytest.fixture(params=[Threads, Tasks])
def calls(request, server):
    """Either client, which knows the model unless a test says otherwise; nothing must be left behind in it."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(connected(request.param, server, **options))


@pytest.fixture
def threads(server):
    with connected(Threads, server) as made:
        yield made


@pytest.fixture
def tasks(server):
    with connected(Tasks, server) as made:
        yield made
