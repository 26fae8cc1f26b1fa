"""The slots of sleeping executors, lent to the thread that brings the jobs."""

import math

import pytest

from onnxserve_server.scheduling.batch import Batch, Slot
from support.batching import idle_slot, new_batcher, submit


def test_a_batch_is_lent_only_while_an_executor_sleeps(clock, make_job):
    batcher = new_batcher(clock, max_rows=1)
    submit(batcher, make_job())
    assert batcher.dispatch(math.inf) is None
    batcher.take(Slot())
    idle_slot(batcher)
    submit(batcher, make_job(), make_job())
    assert batcher.dispatch(math.inf) is not None
    assert batcher.dispatch(math.inf) is None


@pytest.mark.parametrize(("run", "lent"), [(None, False), (0.002, False), (0.001, True)])
def test_runs_are_left_to_the_caller_only_when_the_last_ones_were_short(clock, make_job, run, lent):
    batcher = new_batcher(clock)
    slot = idle_slot(batcher)
    batcher.finished(Batch([], 0, Slot()), run)
    submit(batcher, make_job())
    assert (batcher.dispatch(0.001) is not None) == lent
    assert slot.sleep(0) != lent


def test_the_borrower_goes_on_with_what_waits_and_gives_the_slot_back(clock, make_job):
    batcher = new_batcher(clock, max_rows=1)
    slot = idle_slot(batcher)
    first, second = submit(batcher, make_job(), make_job())
    batch = batcher.dispatch(math.inf)
    assert batch.jobs == [first]
    batch = batcher.next(batch, math.inf)
    assert batch.jobs == [second]
    assert batcher.next(batch, math.inf) is None
    assert not slot.sleep(0)
    submit(batcher, make_job())
    assert batcher.dispatch(math.inf) is not None


def test_the_executor_is_woken_when_the_borrower_leaves_work_behind(clock, make_job):
    batcher = new_batcher(clock, max_rows=1)
    slot = idle_slot(batcher)
    submit(batcher, make_job(), make_job())
    assert batcher.next(batcher.dispatch(math.inf), 0.0) is None
    assert slot.sleep(0)


def test_a_closed_batcher_lends_no_slot_and_its_borrower_wakes_the_executor(clock, make_job):
    batcher = new_batcher(clock)
    slot = idle_slot(batcher)
    submit(batcher, make_job())
    batch = batcher.dispatch(math.inf)
    batcher.close()
    assert not slot.sleep(0)
    assert batcher.next(batch, math.inf) is None
    assert slot.sleep(0)
    assert batcher.take(slot) is None


def test_a_second_executor_is_woken_for_what_the_first_one_leaves(clock, make_job):
    batcher = new_batcher(clock, instances=2, max_rows=1)
    slots = [idle_slot(batcher) for _ in range(2)]
    submit(batcher, make_job(), make_job())
    assert batcher.dispatch() is None
    (woken,) = (slot for slot in slots if slot.sleep(0))
    assert batcher.take(woken) is not None
    (other,) = (slot for slot in slots if slot is not woken)
    assert other.sleep(0)


def test_a_second_executor_is_woken_for_what_the_borrower_leaves(clock, make_job):
    batcher = new_batcher(clock, instances=2, max_rows=1)
    slots = [idle_slot(batcher) for _ in range(2)]
    submit(batcher, make_job(), make_job())
    assert batcher.dispatch(math.inf) is not None
    assert sum(slot.sleep(0) for slot in slots) == 1
