"""Callers that leave, clients that are closed, connections that hang; and nothing is left behind."""

import gc
import signal
import threading

import grpc
import pytest

import onnxserve
from onnxserve import errors
from onnxserve._waiting import Batch, Waiter
from support.coalescing import FOR_EVER, Server, Tasks, busy, doubled, flush, row, start_waiting, values, waiting
from support.waiting import until


def test_closing_the_client_ends_what_waits(server, calls):
    calls = calls()
    with busy(server, calls) as first:
        together = start_waiting(calls, row(1), row(2))
        flush(calls)
        until(lambda: len(server.further) == 1)
        together += start_waiting(calls, row(3), row(4), row(5))
        if isinstance(calls, Tasks):
            calls.run(calls.client.close())
        else:
            calls.client.close()
        raised = [call.exception(FOR_EVER) for call in first + together]
    assert {type(each) for each in raised} == {errors.Cancelled}
    with pytest.raises(errors.Cancelled):
        calls.start(row(1)).result(FOR_EVER)


def test_what_waits_behind_calls_that_hang_goes_on(server, calls):
    calls = calls()
    calls.client._coalescer.max_wait = 0.01
    with busy(server, calls):
        predict, server.predict = server.predict, None
        done = Server()
        server.predict = done.predict
        together = [calls.start(row(number)) for number in range(1, 6)]
        assert values(together) == doubled(*map(row, range(1, 6)))
        server.predict = predict


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_others(server, tasks):
    with busy(server, tasks):
        leaving, *together = start_waiting(tasks, row(1), row(2), row(3))
        leaving.cancel()
        until(lambda: len(server.further) == 1)  # it was the first: nobody else would have sent them in time
    assert leaving.cancelled()
    assert values(together) == doubled(row(2), row(3))
    assert server.rows == [2]


def test_a_task_that_is_cancelled_while_a_joined_request_is_out_leaves_the_others(server, tasks):
    with busy(server, tasks):
        leaving, *together = start_waiting(tasks, row(1), row(2), row(3))
        flush(tasks)
        until(lambda: len(server.further) == 1)
        leaving.cancel()
    assert leaving.cancelled()
    assert values(together) == doubled(row(2), row(3))


def test_a_joined_request_that_all_have_left_is_given_up(server, tasks):
    with busy(server, tasks):
        together = start_waiting(tasks, row(1), row(2), row(3))
        flush(tasks)
        until(lambda: len(server.further) == 1)
        for call in together:
            call.cancel()
        until(lambda: server.left(-1))


def test_a_thread_that_is_interrupted_while_it_waits_leaves_the_others(server, threads):
    with busy(server, threads):
        together = start_waiting(threads, row(1), row(2))
        main = threading.main_thread().ident
        interrupting = threads.pool.submit(
            lambda: until(lambda: waiting(threads) == 3) and signal.pthread_kill(main, signal.SIGINT)
        )
        with pytest.raises(KeyboardInterrupt):
            threads.client.predict("m", {"x": row(3)})
        interrupting.result(FOR_EVER)
    assert values(together) == doubled(row(1), row(2))
    assert server.rows == [2]


def test_nothing_is_left_behind_that_only_a_collection_would_free(server, threads):
    server.refuse = lambda rows, context: rows == 3 and context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for xs in ([row(1), row(2)], [row(1), row(2), row(3)]):
            with busy(server, threads):
                together = start_waiting(threads, *xs)
            failed = [call.exception(FOR_EVER) is not None for call in together]
            assert failed == [len(xs) == 3] * len(xs)
            del together
        gc.collect()
        assert not [each for each in gc.garbage if isinstance(each, Waiter | Batch | onnxserve.OnnxserveError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
