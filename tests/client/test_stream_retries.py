"""Requests of streams that are sent again, against a real gRPC server whose calls break or fall silent."""

import threading

import grpc
import numpy as np
import pytest

from onnxserve import DeadlineExceeded, FailedPrecondition, ServersBroke, _watching
from onnxserve._turns import TURNS
from onnxserve.v1 import inference_service_pb2 as inference
from support.streaming import STREAM, echo

FOR_EVER = 60.0  # longer than any test waits


def x(value):
    return {"x": np.full((1, 2), value, np.float32)}


def values(answers):
    return [answer["x"][0, 0] for answer in answers]


class Server:
    """Calls `work(number of the call, requests, context)` for each call, which gives the answers.

    Attributes:
        calls: how many calls there were.
        received: the values of the requests that have come.
    """

    def __init__(self, serve, work):
        self.calls = 0
        self.received = []
        self.over = threading.Event()
        self._work = work
        self.address = serve({STREAM: self._stream}, workers=8)

    def _stream(self, messages, context):
        self.calls += 1
        for answer in self._work(self.calls, map(self._receive, messages), context):
            yield answer.SerializeToString()

    def _receive(self, message):
        request = inference.StreamRequest.FromString(message)
        self.received.append(int(np.frombuffer(request.predict.inputs[0].data, np.float32)[0]))
        return request


def breaks(context):
    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def breaks_at_first(call, requests, context):
    """The first call gets three requests, and breaks."""
    if call == 1:
        for _ in range(3):
            next(requests)
        breaks(context)
    return map(echo, requests)


def test_requests_that_broke_are_sent_one_by_one_on_one_call_also_the_last_ones(serve, either):
    server = Server(serve, breaks_at_first)
    client = either.connect(server.address)
    assert values(client.stream("m", map(x, range(3)))) == [0, 1, 2]
    assert server.calls == 2


def test_a_stream_has_its_turn_only_while_its_caller_waits(serve, either):
    server = Server(serve, breaks_at_first)
    client = either.connect(server.address)
    answers = client.stream("m", map(x, range(3)))
    assert values([next(answers)]) == [0]
    assert not TURNS._queue
    assert server.received == [0, 1, 2, 0]
    assert values(answers) == [1, 2]


def test_requests_that_are_overdue_together_end_together_and_are_not_sent_again(serve, either):
    def silent(_, requests, context):
        for _ in requests:
            pass
        server.over.wait(FOR_EVER)
        yield from ()

    server = Server(serve, silent)
    client = either.connect(server.address)
    errors = list(client.stream("m", map(x, range(40)), timeout=1, return_errors=True))
    server.over.set()
    assert [type(each) for each in errors] == [DeadlineExceeded] * 40
    assert len({each.request_id for each in errors}) == 40
    assert server.received == [*range(40)]
    assert server.calls == 1


def test_a_stream_that_was_answered_has_been_started(serve, either):
    """Whatever its end is called."""

    def refuse_late(call, requests, context):
        yield echo(next(requests))
        for _ in range(3 - call):
            next(requests)
        context.abort(grpc.StatusCode.UNAVAILABLE, "Stream removed (RST_STREAM with error code 7)")

    server = Server(serve, refuse_late)
    client = either.connect(server.address)
    answers = client.stream("m", map(x, range(3)), timeout=None)
    assert values([next(answers)]) == [0]
    assert values([next(answers)]) == [1]
    with pytest.raises(ServersBroke):
        next(answers)


def test_with_no_tokens_left_a_stream_ends_with_the_error_of_its_oldest_request(serve, either):
    def always(call, requests, context):
        next(requests)
        if call == 2:
            client._policy._tokens = 0
        breaks(context)

    server = Server(serve, always)
    client = either.connect(server.address)
    with pytest.raises(ServersBroke) as caught:
        list(client.stream("m", map(x, range(3)), return_errors=True))
    assert caught.value.request_id
    assert server.calls == 2


@pytest.fixture
def late(monkeypatch):
    """Have each stream's call cancelled once, as if its answer was overdue, in the moment in which an answer comes."""

    def disarm(watched):
        watched.deadline = _watching.inf
        if watched.call is not None and watched not in cancelled:
            cancelled.add(watched)
            watched.expire()

    cancelled = set()
    for kind in (_watching.Watched, _watching.AsyncWatched):
        monkeypatch.setattr(kind, "disarm", disarm)
    return cancelled


def test_a_cancel_in_the_moment_of_an_answer_loses_nothing_of_a_stream(serve, either, late):
    server = Server(serve, lambda call, requests, context: map(echo, requests))
    client = either.connect(server.address)
    assert values(client.stream("m", map(x, range(5)), window=2)) == [*range(5)]
    assert (server.calls, len(late)) == (2, 1)


def test_after_a_cancel_in_the_moment_of_an_answer_the_state_of_a_sequence_is_lost(serve, either, late):
    server = Server(serve, lambda call, requests, context: map(echo, requests))
    client = either.connect(server.address)
    with client.sequence("m") as sequence:
        assert sequence.step(x(1))["x"][0, 0] == 1
        with pytest.raises(FailedPrecondition):
            sequence.step(x(2))
    assert (server.received, len(late)) == ([1], 1)
