"""Timeouts of calls that wait, or whose joined request is in flight."""

import pytest

from onnxserve import _base, errors
from support.coalescing import FOR_EVER, busy, doubled, flush, row, start_waiting, values
from support.waiting import until


def test_a_timeout_that_passes_while_a_call_waits_is_its_own(server, calls):
    calls = calls()
    with busy(server, calls):
        (short,) = start_waiting(calls, row(1), timeout=1.5)
        together = start_waiting(calls, row(2), row(3))
        with pytest.raises(errors.DeadlineExceeded) as caught:
            short.result(FOR_EVER)
    assert (caught.value.message, caught.value.violations) == ("Deadline Exceeded", ())
    assert caught.value.request_id
    assert values(together) == doubled(row(2), row(3))


def test_a_timeout_that_passes_while_a_joined_request_is_out_is_its_own(server, calls):
    calls = calls()
    with busy(server, calls):
        (short,) = start_waiting(calls, row(1), timeout=1.5)
        together = start_waiting(calls, row(2), row(3))
        flush(calls)
        until(lambda: len(server.further) == 1)
        with pytest.raises(errors.DeadlineExceeded, match="Deadline Exceeded"):
            short.result(FOR_EVER)
    assert values(together) == doubled(row(2), row(3))
    assert server.rows == [3]


def test_timeouts_of_all_lengths_travel_together_for_as_long_as_the_longest(server, calls):
    calls = calls()
    timeouts = []
    predict = server.predict

    def keep(message, context):
        timeouts.append(context.time_remaining())
        return predict(message, context)

    server.predict = keep
    with busy(server, calls):
        together = [start_waiting(calls, row(n), timeout=t)[0] for n, t in enumerate((30.0, 50.0, 40.0))]
    assert values(together) == doubled(*map(row, range(3)))
    assert 40 < timeouts[-1] <= 50
    with busy(server, calls):
        together = [start_waiting(calls, row(n), timeout=t)[0] for n, t in enumerate((30.0, None, 40.0))]
    assert values(together) == doubled(*map(row, range(3)))
    assert timeouts[-1] is None or timeouts[-1] > 1e6


def test_a_call_with_little_time_does_not_wait(server, calls, monkeypatch):
    monkeypatch.setattr(_base, "MIN_TIMEOUT", 50.0)
    calls = calls()
    with busy(server, calls):
        short = calls.start(row(1), timeout=49.0)
        until(lambda: len(server.further) == 1)
    assert values([short]) == doubled(row(1))


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_that_leaves_no_time_is_refused_as_ever(server, calls, timeout):
    calls = calls()
    with busy(server, calls):
        (call,) = [calls.start(row(1), timeout=timeout)]
        with pytest.raises(ValueError, match="above 0"):
            call.result(FOR_EVER)
