"""What the model allows: how much goes into one request, and which models are never joined."""

import numpy as np
import pytest

from onnxserve import _coalescing
from onnxserve._joining import Spec
from support.coalescing import busy, description, doubled, row, spec, start_waiting, values
from support.waiting import until


def test_no_more_rows_are_joined_than_a_run_takes_and_all_that_waits_is_sent(server, calls):
    server.model = description(max_rows=8)
    calls = calls()
    xs = [np.full((rows, 2), rows, np.float32) for rows in (3, 4, 2, 4, 4)]
    with busy(server, calls):
        together = start_waiting(calls, *xs)
    assert values(together) == doubled(*xs)
    assert sorted(server.rows) == [4, 6, 7]


@pytest.mark.parametrize("limits", [{"max_rows": 8}, {"max_queue_rows": 8}, {"max_queue_bytes": 100}])
def test_a_request_that_is_too_large_for_two_waits_for_nobody(server, calls, limits):
    server.model = description(**limits)
    calls = calls()
    with busy(server, calls):
        large = calls.start(np.ones((7, 2), np.float32))
        until(lambda: len(server.further) == 1)
    assert values([large]) == doubled(np.ones((7, 2)))


def test_a_joined_request_stays_within_the_clients_own_limit(server, calls):
    server.model = description([spec("x", "batch", "n")], [spec("y", "batch", "n")])
    calls = calls(max_message_bytes=8000)
    xs = [np.full((1, 400), number, np.float32) for number in range(4)]
    with busy(server, calls, xs[0]):
        together = start_waiting(calls, *xs, *xs)
    assert values(together) == doubled(*xs, *xs)
    assert max(map(len, server.messages)) < 4000 + 200


def test_a_model_that_is_not_batched_is_called_one_by_one(server, calls):
    server.model = description(enabled=False)
    calls = calls(known=False)
    with busy(server, calls):
        more = [calls.start(row(number)) for number in range(6)]
        until(lambda: len(server.further) == 6)
    assert values(more) == doubled(*map(row, range(6)))
    until(lambda: server.asked)  # by a call of its own, which may take longer than theirs
    assert len(server.asked) == 1


def test_a_server_that_does_not_describe_its_model_is_called_one_by_one(server, calls):
    server.model = None
    calls = calls(known=False)
    with busy(server, calls):
        more = [calls.start(row(number)) for number in range(6)]
        until(lambda: len(server.further) == 6)
    assert values(more) == doubled(*map(row, range(6)))
    until(lambda: server.asked)  # by a call of its own, which may take longer than theirs
    assert len(server.asked) == 1


def test_the_model_is_asked_for_once_and_only_when_there_is_something_to_join(server, calls):
    calls = calls(known=False)
    with busy(server, calls):
        assert server.asked == []
        third = calls.start(row(3))
        until(lambda: len(server.further) == 1)
        until(lambda: isinstance(calls.client._coalescer._specs["m", None], Spec))
        together = start_waiting(calls, row(4), row(5))
    assert values([third, *together]) == doubled(row(3), row(4), row(5))
    assert len(server.asked) == 1
    assert sorted(server.rows) == [1, 2]


def test_what_another_version_answered_is_asked_again_alone_and_the_version_is_asked_for(server, calls, monkeypatch):
    """The new version does not compute row by row, and nothing but its name says so."""
    monkeypatch.setattr(_coalescing, "_PAUSE", 0.0)
    calls = calls()
    server.version, server.compute = "2", lambda x: x - x.mean(axis=0)
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
    assert values(together) == [row(0).tolist()] * 2
    assert {call.result().version for call in together} == {"2"}
    assert server.rows == [2, 1, 1]
    with busy(server, calls):
        alone = calls.start(row(3))
        until(lambda: server.asked)
    assert values([alone]) == [row(0).tolist()]
