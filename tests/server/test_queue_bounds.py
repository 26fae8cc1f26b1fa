"""What a queue refuses, for want of room or of time, and what it ends when its time is over."""

import math

import pytest

from onnxserve_server.errors import DeadlineExceeded, ModelStopped, QueueFull
from onnxserve_server.scheduling.batch import Batch, Slot
from support.batching import counts, idle_slot, new_batcher, submit


def test_the_queue_is_full_in_rows(clock, make_job):
    batcher = new_batcher(clock, max_queue_rows=4)
    submit(batcher, make_job(3))
    with pytest.raises(QueueFull) as refusal:
        batcher.submit(make_job(2))
    assert refusal.value.retry_after > 0
    assert refusal.value.metadata["queued_rows"] == "3"
    submit(batcher, make_job(1))
    assert counts(batcher) == (2, 4, 16, 0)


def test_the_queue_is_full_in_bytes(clock, make_job):
    batcher = new_batcher(clock, max_queue_bytes=100)
    submit(batcher, make_job(nbytes=60))
    with pytest.raises(QueueFull):
        batcher.submit(make_job(nbytes=41))
    submit(batcher, make_job(nbytes=40))
    assert counts(batcher) == (2, 2, 100, 0)


def test_what_is_taken_or_leaves_makes_room(clock, make_job):
    batcher = new_batcher(clock, max_queue_rows=2)
    submit(batcher, make_job(2))
    batcher.take(Slot())
    (leaving,) = submit(batcher, make_job(2))
    leaving.cancel()
    submit(batcher, make_job(2))
    assert counts(batcher) == (1, 2, 8, 1)


def test_the_delay_of_a_retry_grows_with_the_queue(clock, make_job):
    delays = []
    for waiting in (2, 20):
        batcher = new_batcher(clock, max_rows=1, max_queue_rows=waiting)
        batcher.finished(Batch([], 0, Slot()), 0.5)
        submit(batcher, *(make_job() for _ in range(waiting)))
        with pytest.raises(QueueFull) as refusal:
            batcher.submit(make_job())
        delays.append(refusal.value.retry_after)
    assert delays == [1.5, 10.5]


def test_a_closed_batcher_refuses_and_hands_out_what_waits(clock, make_job):
    batcher = new_batcher(clock)
    jobs = submit(batcher, make_job())
    batcher.close()
    with pytest.raises(ModelStopped):
        batcher.submit(make_job())
    assert batcher.take(Slot()).jobs == [*jobs]
    assert batcher.take(Slot()) is None


def test_a_job_whose_deadline_has_passed_is_refused(clock, make_job):
    batcher = new_batcher(clock)
    idle_slot(batcher)
    with pytest.raises(DeadlineExceeded, match="the deadline has passed"):
        batcher.submit(make_job(arrived=100.0, deadline=99.9))
    assert counts(batcher) == (0, 0, 0, 0)


def ran(batcher, rows, seconds):
    """Note a run of so many rows."""
    batcher.finished(Batch([], rows, Slot()), seconds)


def test_an_idle_model_refuses_what_its_runs_take_too_long_for_and_tries_again_after_a_while(clock, make_job):
    batcher = new_batcher(clock)
    idle_slot(batcher)
    ran(batcher, 1, 0.5)
    with pytest.raises(DeadlineExceeded, match=r"about 500\.0 ms are needed, with the requests ahead, and 100\.0 ms"):
        batcher.submit(make_job(deadline=100.1))
    clock.now = 102.0
    (tried,) = submit(batcher, make_job(arrived=102.0, deadline=102.1))
    assert batcher.dispatch(math.inf).jobs == [tried]
    with pytest.raises(DeadlineExceeded):
        batcher.submit(make_job(arrived=102.0, deadline=102.1))


def test_a_busy_model_refuses_what_cannot_be_done_after_those_ahead(clock, make_job):
    batcher = new_batcher(clock, max_rows=2)
    for _ in range(2):
        ran(batcher, 2, 1.0)
    submit(batcher, make_job(2, deadline=101.0), make_job(2, deadline=103.0))
    with pytest.raises(DeadlineExceeded) as refusal:
        batcher.submit(make_job(deadline=103.4))
    assert refusal.value.metadata["needed_us"] == "3500000"  # two runs, a quarter more for the wait, and its own
    submit(batcher, make_job(deadline=103.5))


def test_a_model_that_is_not_batched_counts_one_run_a_request(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    ran(batcher, 1, 1.0)
    submit(batcher, *(make_job() for _ in range(4)))
    with pytest.raises(DeadlineExceeded):
        batcher.submit(make_job(deadline=105.9))
    submit(batcher, make_job(deadline=106.0))


def test_two_slow_runs_of_many_do_not_count(clock, make_job):
    batcher = new_batcher(clock)
    for seconds in (*[0.25] * 20, 4.0, None, 4.0, *[0.25] * 10):
        ran(batcher, 1, seconds)
    submit(batcher, make_job(deadline=100.25))


def test_a_run_that_was_stopped_counts_for_as_long_as_it_went_on(clock, make_job):
    batcher = new_batcher(clock)
    ran(batcher, 1, 0.1)
    batcher.stopped(Batch([], 1, Slot()), 2.0)
    batcher.stopped(Batch([], 1, Slot()), 2.0)
    batcher.stopped(Batch([], 1, Slot()), 0.01)
    with pytest.raises(DeadlineExceeded):
        batcher.submit(make_job(deadline=101.9))


def test_jobs_of_lower_priority_are_not_ahead(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    ran(batcher, 1, 1.0)
    submit(batcher, *(make_job() for _ in range(4)))
    submit(batcher, make_job(deadline=101.0, priority=1))
    with pytest.raises(DeadlineExceeded):
        batcher.submit(make_job(deadline=101.0, priority=1))


def test_the_rest_of_the_run_in_progress_is_waited_for(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    ran(batcher, 1, 1.0)
    submit(batcher, make_job())
    batcher.take(Slot())
    with pytest.raises(DeadlineExceeded):
        batcher.submit(make_job(arrived=100.4, deadline=102.0))
    submit(batcher, make_job(arrived=100.4, deadline=102.2))


def test_who_cannot_finish_any_more_is_ended_before_the_run(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    ran(batcher, 1, 1.0)
    late, next_one = submit(batcher, make_job(deadline=101.5), make_job(deadline=109.0))
    clock.now = 100.6
    assert batcher.take(Slot()).jobs == [next_one]
    batcher.expire(clock.now)
    assert "cannot be met any more" in late.outcome.message


def test_expire_ends_what_is_due_waiting_or_running_and_tells_the_next_deadline(clock, make_job):
    batcher = new_batcher(clock)
    running_due, running = submit(batcher, make_job(deadline=101.0), make_job(deadline=103.0))
    batcher.take(Slot())
    due, waiting, patient = submit(batcher, make_job(deadline=102.0), make_job(deadline=104.0), make_job())
    assert batcher.expire(102.0) == 103.0
    assert isinstance(running_due.outcome, DeadlineExceeded)
    assert isinstance(due.outcome, DeadlineExceeded)
    assert not (running.outcomes or waiting.outcomes or patient.outcomes)
    assert counts(batcher) == (2, 2, 8, 1)
    assert batcher.expire(104.0) == math.inf


def test_a_batch_is_stopped_when_the_deadline_of_its_last_member_passes(clock, make_job):
    batcher = new_batcher(clock)
    submit(batcher, make_job(deadline=101.0), make_job(deadline=102.0))
    batch, stopped = batcher.take(Slot()), []
    batch.arm(lambda: stopped.append(True))
    batcher.expire(101.0)
    assert not stopped
    batcher.expire(102.0)
    assert stopped == [True]


def test_a_job_whose_deadline_has_passed_is_never_handed_out(clock, make_job):
    batcher = new_batcher(clock)
    late, mate = submit(batcher, make_job(deadline=101.0), make_job())
    clock.now = 101.0
    assert batcher.take(Slot()).jobs == [mate]
    batcher.expire(clock.now)
    assert isinstance(late.outcome, DeadlineExceeded)
    assert counts(batcher) == (0, 0, 0, 1)
