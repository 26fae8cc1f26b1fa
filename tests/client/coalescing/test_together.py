"""Which calls wait for others, and what each of them gets."""

import numpy as np
import pytest

from onnxserve._call import PredictCall
from onnxserve._wire import predict_request
from support.coalescing import FOR_EVER, busy, doubled, row, start_waiting, values
from support.waiting import until


def test_calls_that_wait_travel_as_one_and_each_gets_its_own_rows(server, calls):
    calls = calls()
    xs = [np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + rows for rows in (1, 3, 0, 2)]
    with busy(server, calls) as first:
        together = start_waiting(calls, *xs)
    assert values(together) == doubled(*xs)
    assert values(first) == doubled(row(0), row(-1), row(-2), row(-3))
    assert server.rows == [6]
    answers = [call.result() for call in together]
    assert {answer.receipt.batch_rows for answer in answers} == {6}
    assert {(answer.model, answer.version) for answer in answers} == {("m", "1")}
    ids = {answer.request_id for answer in answers}
    assert len(ids) == 4
    assert not ids & {request.request_id for request in server.requests}


def test_the_parts_of_an_answer_are_read_only_views_of_it(server, calls):
    calls = calls()
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
    one, other = (call.result(FOR_EVER)["y"] for call in together)
    assert one.base is not None
    assert not one.flags.writeable
    assert other.__array_interface__["data"][0] - one.__array_interface__["data"][0] == one.nbytes


def test_what_an_input_is_changed_to_while_it_waits_is_not_sent(server, calls):
    calls = calls()
    x = row(1)
    with busy(server, calls):
        together = start_waiting(calls, x, row(2))
        x[:] = 99
    assert values(together) == doubled(row(1), row(2))


@pytest.mark.parametrize("coalesce", [True, False])
def test_a_lone_caller_sends_what_it_always_has(server, calls, coalesce):
    calls = calls(coalesce=coalesce)
    for options in ({}, {"request_id": "mine"}, {"outputs": ["y"], "version": "1", "priority": 3}):
        answer = calls.start(row(5), **options).result(FOR_EVER)
        call = PredictCall(model="m", inputs={"x": row(5)}, **options)
        assert server.messages[-1] == predict_request(call, answer.request_id)
    assert server.asked == []


def test_without_coalescing_each_call_is_a_request(server, calls):
    calls = calls(coalesce=False)
    with busy(server, calls):
        more = [calls.start(row(number)) for number in range(10)]
        until(lambda: len(server.further) == 10)
    assert values(more) == doubled(*map(row, range(10)))
    assert server.rows == [1] * 10


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (row(1), {"priority": 1}),
        (row(1), {"outputs": ["y"]}),
        (row(1), {"version": "1"}),
        (row(1).astype(np.float64), {}),
    ],
    ids=["priority", "outputs", "version", "type"],
)
def test_calls_that_ask_for_something_else_do_not_wait(server, calls, x, options):
    calls = calls()
    with busy(server, calls):
        other = calls.start(x, **options)
        until(lambda: len(server.further) == 1)
    assert values([other]) == doubled(x)


def test_a_call_with_a_request_id_of_its_callers_is_sent_under_it_at_once(server, calls):
    calls = calls()
    with busy(server, calls):
        together = start_waiting(calls, row(1), row(2))
        named = calls.start(row(3), request_id="mine")
        until(lambda: len(server.further) == 1)
    assert named.result(FOR_EVER).request_id == "mine"
    assert values(together) == doubled(row(1), row(2))
    assert [request.request_id for request in server.requests].count("mine") == 1


def test_one_that_waits_for_itself_goes_as_it_always_has(server, calls):
    calls = calls()
    with busy(server, calls):
        (alone,) = start_waiting(calls, row(7))
    answer = alone.result(FOR_EVER)
    assert server.messages[-1] == predict_request(PredictCall(model="m", inputs={"x": row(7)}), answer.request_id)
