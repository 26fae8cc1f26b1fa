"""How batches form from a queue: order, row shapes, delay. By a hand-moved clock."""

import math

from onnxserve_server.scheduling.batch import Slot
from support.batching import counts, idle_slot, new_batcher, submit


def test_jobs_that_wait_together_run_together_in_their_order(clock, make_job):
    batcher = new_batcher(clock)
    jobs = submit(batcher, *(make_job(rows) for rows in (1, 3, 2)))
    batch = batcher.take(Slot())
    assert (batch.jobs, batch.rows) == ([*jobs], 6)
    assert counts(batcher) == (0, 0, 0, 3)
    batcher.finished(batch, 0.1)
    assert counts(batcher) == (0, 0, 0, 0)


def test_a_batch_has_at_most_max_rows_and_nobody_overtakes_who_does_not_fit(clock, make_job):
    batcher = new_batcher(clock, max_rows=4)
    first, large, small = submit(batcher, make_job(2), make_job(3), make_job(1))
    assert batcher.take(Slot()).jobs == [first]
    assert batcher.take(Slot()).jobs == [large, small]


def test_a_model_that_is_not_batched_gets_one_job_a_run(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    jobs = submit(batcher, make_job(), make_job())
    assert [batcher.take(Slot()).jobs for _ in jobs] == [[job] for job in jobs]


def test_jobs_of_different_row_shapes_never_share_a_batch(clock, make_job):
    batcher = new_batcher(clock)
    short, long, other = submit(batcher, make_job(key=1), make_job(key=2), make_job(key=1))
    assert batcher.take(Slot()).jobs == [short, other]
    assert batcher.take(Slot()).jobs == [long]


def test_of_several_row_shapes_the_one_with_the_most_urgent_job_runs_first(clock, make_job):
    batcher = new_batcher(clock)
    early, urgent = submit(batcher, make_job(key=1, arrived=100.0), make_job(key=2, arrived=100.5, priority=1))
    late = make_job(key=3, arrived=101.0)
    submit(batcher, late)
    assert [batcher.take(Slot()).jobs for _ in range(3)] == [[urgent], [early], [late]]


def test_high_priority_goes_first_and_low_goes_on_when_it_has_waited_long_enough(clock, make_job):
    batcher = new_batcher(clock, max_rows=1)
    low, high = submit(batcher, make_job(arrived=100.0), make_job(arrived=100.9, priority=1))
    later = make_job(arrived=101.1, priority=1)
    submit(batcher, later)
    assert [batcher.take(Slot()).jobs for _ in range(3)] == [[high], [low], [later]]


def test_a_job_waits_for_mates_until_the_delay_of_the_oldest_is_over(clock, make_job):
    batcher = new_batcher(clock, max_delay=5.0)
    slots = [idle_slot(batcher) for _ in range(2)]
    oldest = submit(batcher, make_job(arrived=100.0))
    assert batcher.dispatch(math.inf) is None
    clock.now = 104.9
    mate = submit(batcher, make_job(arrived=104.9))
    assert batcher.dispatch(math.inf) is None
    clock.now = 105.0
    assert batcher.take(slots[1]).jobs == [*oldest, *mate]


def test_a_full_batch_does_not_wait(clock, make_job):
    batcher = new_batcher(clock, max_delay=5.0, max_rows=4)
    idle_slot(batcher)
    jobs = submit(batcher, make_job(1), make_job(3))
    assert batcher.dispatch(math.inf).jobs == [*jobs]


def test_a_row_shape_that_waits_for_mates_does_not_hold_up_another(clock, make_job):
    batcher = new_batcher(clock, max_delay=5.0, max_rows=2)
    idle_slot(batcher)
    first = submit(batcher, make_job(key=1))
    full = submit(batcher, make_job(key=2), make_job(key=2))
    assert batcher.dispatch(math.inf).jobs == [*full]
    clock.now = 105.0
    assert batcher.take(Slot()).jobs == [*first]


def test_nobody_waits_for_mates_when_the_model_is_being_stopped(clock, make_job):
    batcher = new_batcher(clock, max_delay=5.0)
    jobs = submit(batcher, make_job())
    batcher.close()
    assert batcher.take(Slot()).jobs == [*jobs]


def test_a_delay_is_watched_after_a_full_batch_was_lent_out(clock, make_job):
    batcher = new_batcher(clock, max_delay=5.0, max_rows=1)
    slot = idle_slot(batcher)
    batcher._delaying = True  # the executor sleeps until the delay of a job that has left
    submit(batcher, make_job(key=1))
    borrowed = batcher.dispatch(math.inf)
    submit(batcher, make_job(key=2))
    assert batcher.next(borrowed, 0.0) is None
    assert slot.sleep(0)  # the executor is woken for the second
    batcher.take(slot)
    assert not batcher._delaying
