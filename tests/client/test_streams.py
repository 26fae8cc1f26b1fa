"""Streams and sequences, against a real gRPC server whose calls break, end early or are mixed up."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from onnxserve import AsyncClient, Client, InvalidAnswer, OnnxserveError, _stream
from onnxserve._messages import MessageSource
from onnxserve._retrying import RetryPolicy
from onnxserve.v1 import inference_service_pb2 as inference
from support.streaming import STREAM, echo
from support.waiting import until

FOR_EVER = 60.0  # longer than any test waits


class Server:
    """Echoes; `first` is what its first call does instead."""

    def __init__(self):
        self.first = None
        self.calls = 0
        self.begun_again = threading.Event()

    def stream(self, messages, context):
        requests = map(inference.StreamRequest.FromString, messages)
        for answer in self._answers(requests, context):
            yield answer.SerializeToString()

    def _answers(self, requests, context):
        self.calls += 1
        if self.calls == 1:
            return self.first(requests, context)
        self.begun_again.set()
        return map(echo, requests)


@pytest.fixture
def server(serve):
    scripted = Server()
    scripted.address = serve({STREAM: scripted.stream}, workers=4)
    return scripted


@pytest.fixture(params=[False, True], ids=["Client", "AsyncClient"])
def asynchronous(request):
    return request.param


def x(value):
    return {"x": np.full((1, 2), value, np.float32)}


def stream(address, asynchronous, count, pause):
    """The values that stream() gives for so many; before those after the first three it waits for `pause`, an event."""

    def inputs():
        for number in range(count):
            if number == 3:
                assert pause.wait(FOR_EVER)
            yield x(number)

    async def waiting_inputs():
        for number in range(count):
            if number == 3:
                assert await asyncio.to_thread(pause.wait, FOR_EVER)
            yield x(number)

    async def gather():
        async with AsyncClient(address) as client:
            return [answer async for answer in client.stream("m", waiting_inputs())]

    if asynchronous:
        answers = asyncio.run(gather())
    else:
        with Client(address) as client:
            answers = [*client.stream("m", inputs())]
    return [answer["x"][0, 0] for answer in answers]


def steps(address, asynchronous, count):
    """What so many steps of a sequence give, errors included."""
    outcomes = []

    async def run():
        async with AsyncClient(address) as client, client.sequence("m") as sequence:
            for number in range(count):
                try:
                    outcomes.append(await sequence.step(x(number)))
                except OnnxserveError as error:
                    outcomes.append(error)

    if asynchronous:
        asyncio.run(run())
    else:
        with Client(address) as client, client.sequence("m") as sequence:
            for number in range(count):
                try:
                    outcomes.append(sequence.step(x(number)))
                except OnnxserveError as error:
                    outcomes.append(error)
    return outcomes


def answers_three_and_breaks(requests, context):
    for _ in range(3):
        yield echo(next(requests))
    context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")


def mixes_up(requests, _):
    for request in requests:
        answer = echo(request)
        answer.request_id = "another"
        yield answer


def ends(requests, _):
    next(requests)
    yield from ()


def test_an_input_that_comes_while_the_client_waits_to_call_again_is_answered(server, asynchronous, monkeypatch):
    broken = threading.Event()
    after = _stream.Unanswered.after

    def note(*arguments):
        after(*arguments)
        broken.set()
        return 0.5

    monkeypatch.setattr(_stream.Unanswered, "after", note)
    server.first = answers_three_and_breaks
    assert stream(server.address, asynchronous, 7, broken) == [*range(7)]
    assert server.calls == 2


def test_an_input_that_comes_after_the_next_call_has_begun_is_answered(server, asynchronous):
    server.first = answers_three_and_breaks
    assert stream(server.address, asynchronous, 7, server.begun_again) == [*range(7)]
    assert server.calls == 2


def test_the_next_call_waits_for_an_input_that_the_broken_one_is_taking():
    """It sends the unanswered requests meanwhile; taking from the inputs on two threads would end the stream."""
    taking, waiting, go_on = threading.Event(), threading.Event(), threading.Event()

    class Changed(threading.Condition):
        def wait(self, timeout=None):
            waiting.set()
            return super().wait(timeout)

    def requests():
        yield "1", b"1"
        taking.set()
        assert go_on.wait(FOR_EVER)
        yield "2", b"2"

    source = MessageSource(requests(), _stream.Unanswered(4, RetryPolicy(3), None, None))
    source.changed = Changed()
    with ThreadPoolExecutor(2) as threads:
        broken = source.messages()
        assert next(broken) == b"1"
        ended = threads.submit(next, broken, None)
        assert taking.wait(FOR_EVER)
        following = source.messages()
        assert next(following) == b"1"
        message = threads.submit(next, following, None)
        until(lambda: message.done() or waiting.is_set())
        go_on.set()
        assert (message.result(FOR_EVER), ended.result(FOR_EVER)) == (b"2", None)
    assert source.failure is None


def test_an_answer_to_another_request_is_an_error(server, asynchronous):
    server.first = mixes_up
    with pytest.raises(InvalidAnswer, match="'another'"):
        stream(server.address, asynchronous, 1, None)


def test_a_step_that_gets_another_ones_answer_fails_and_the_next_is_made_on_another_call(server, asynchronous):
    server.first = mixes_up
    failed, answer = steps(server.address, asynchronous, 2)
    assert isinstance(failed, InvalidAnswer)
    assert "'another'" in failed.message
    assert answer["x"][0, 0] == 1


def test_a_step_after_a_stream_that_ended_too_early_is_made_on_another_call(server, asynchronous):
    server.first = ends
    failed, answer = steps(server.address, asynchronous, 2)
    assert isinstance(failed, InvalidAnswer)
    assert answer["x"][0, 0] == 1


def test_a_program_that_exits_in_its_inputs_exits(server, asynchronous):
    server.first = lambda requests, _: map(echo, requests)

    def inputs():
        yield x(0)
        raise SystemExit("enough")

    async def run():
        async with AsyncClient(server.address) as client:
            [answer async for answer in client.stream("m", inputs())]

    with pytest.raises(SystemExit, match="enough"):
        if asynchronous:
            asyncio.run(run())
        else:
            with Client(server.address) as client:
                [*client.stream("m", inputs())]
