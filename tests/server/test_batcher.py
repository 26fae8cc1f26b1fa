"""The queue of a model, its policy by a hand-moved clock, and the runner that empties it."""

import gc
import itertools
import math
import os
import threading
import time
import weakref

import pytest

from onnxserve.tensor import DataType
from onnxserve_server.core import Result
from onnxserve_server.engine.model import ServedModel
from onnxserve_server.errors import Cancelled, DeadlineExceeded, ModelRunFailed, ModelStopped, QueueFull
from onnxserve_server.runtime.session import RunFailed
from onnxserve_server.scheduling.batch import Batch, Slot
from onnxserve_server.scheduling.batcher import Batcher
from onnxserve_server.scheduling.running import BatchRunner
from onnxserve_server.spec import BatchPolicy, ModelSpec, TensorSpec
from support.engines import make_services

COLUMN = (TensorSpec(name="x", data_type=DataType.DATA_TYPE_FLOAT, shape=("batch", 1)),)
ANSWER = (TensorSpec(name="y", data_type=DataType.DATA_TYPE_FLOAT, shape=("batch", 1)),)


def new_batcher(clock, instances=1, **policy):
    return Batcher(BatchPolicy(**{"enabled": True} | policy), make_services(clock), instances)


def idle_slot(batcher):
    """Have an executor asleep: a slot that is given back to an empty batcher."""
    slot = Slot()
    assert batcher.next(Batch([], 0, slot), 0.0) is None
    return slot


def submit(batcher, *jobs):
    for job in jobs:
        batcher.submit(job)
    return jobs


def books(batcher):
    load = batcher.load()
    return load.queued_jobs, load.queued_rows, load.queued_bytes, load.running_jobs


# Batches


def test_jobs_that_wait_together_run_together_in_their_order(clock, make_job):
    batcher = new_batcher(clock)
    jobs = submit(batcher, *(make_job(rows) for rows in (1, 3, 2)))
    batch = batcher.take(Slot())
    assert (batch.jobs, batch.rows) == ([*jobs], 6)
    assert books(batcher) == (0, 0, 0, 3)
    batcher.finished(batch, 0.1)
    assert books(batcher) == (0, 0, 0, 0)


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


# Delay


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


# Bounds


def test_the_queue_is_full_in_rows(clock, make_job):
    batcher = new_batcher(clock, max_queue_rows=4)
    submit(batcher, make_job(3))
    with pytest.raises(QueueFull) as refusal:
        batcher.submit(make_job(2))
    assert refusal.value.retry_after > 0
    assert refusal.value.metadata["queued_rows"] == "3"
    submit(batcher, make_job(1))
    assert books(batcher) == (2, 4, 16, 0)


def test_the_queue_is_full_in_bytes(clock, make_job):
    batcher = new_batcher(clock, max_queue_bytes=100)
    submit(batcher, make_job(nbytes=60))
    with pytest.raises(QueueFull):
        batcher.submit(make_job(nbytes=41))
    submit(batcher, make_job(nbytes=40))
    assert books(batcher) == (2, 2, 100, 0)


def test_what_is_taken_or_leaves_makes_room(clock, make_job):
    batcher = new_batcher(clock, max_queue_rows=2)
    submit(batcher, make_job(2))
    batcher.take(Slot())
    (leaving,) = submit(batcher, make_job(2))
    leaving.cancel()
    submit(batcher, make_job(2))
    assert books(batcher) == (1, 2, 8, 1)


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


# Deadlines


def test_a_job_whose_deadline_has_passed_is_refused(clock, make_job):
    batcher = new_batcher(clock)
    idle_slot(batcher)
    with pytest.raises(DeadlineExceeded, match="the deadline has passed"):
        batcher.submit(make_job(arrived=100.0, deadline=99.9))
    assert books(batcher) == (0, 0, 0, 0)


def test_an_idle_model_admits_a_job_however_slow_its_runs_were(clock, make_job):
    batcher = new_batcher(clock)
    idle_slot(batcher)
    batcher.finished(Batch([], 0, Slot()), 10.0)
    submit(batcher, make_job(deadline=100.1))


def test_a_busy_model_refuses_what_could_not_be_done_in_time(clock, make_job):
    batcher = new_batcher(clock, max_rows=2)
    batcher.finished(Batch([], 0, Slot()), 1.0)
    submit(batcher, make_job(2, deadline=101.0))
    with pytest.raises(DeadlineExceeded) as refusal:
        batcher.submit(make_job(deadline=101.9))
    assert refusal.value.metadata["needed_us"] == "2000000"
    submit(batcher, make_job(deadline=102.0))


def test_the_fastest_of_the_last_runs_is_what_counts(clock, make_job):
    batcher = new_batcher(clock)
    for seconds in (1.0, 0.25, 4.0, None):
        batcher.finished(Batch([], 0, Slot()), seconds)
    submit(batcher, make_job(deadline=100.25))


def test_expire_ends_what_is_due_waiting_or_running_and_tells_the_next_deadline(clock, make_job):
    batcher = new_batcher(clock)
    running_due, running = submit(batcher, make_job(deadline=101.0), make_job(deadline=103.0))
    batcher.take(Slot())
    due, waiting, patient = submit(batcher, make_job(deadline=102.0), make_job(deadline=104.0), make_job())
    assert batcher.expire(102.0) == 103.0
    assert isinstance(running_due.outcome, DeadlineExceeded)
    assert isinstance(due.outcome, DeadlineExceeded)
    assert not (running.outcomes or waiting.outcomes or patient.outcomes)
    assert books(batcher) == (2, 2, 8, 1)
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
    assert books(batcher) == (0, 0, 0, 1)


# Leaving


def test_a_cancelled_job_leaves_its_place_in_the_queue(clock, make_job):
    batcher = new_batcher(clock)
    first, leaving, last = submit(batcher, make_job(1), make_job(2), make_job(3))
    leaving.cancel()
    assert isinstance(leaving.outcome, Cancelled)
    assert books(batcher) == (2, 4, 16, 0)
    assert batcher.take(Slot()).jobs == [first, last]


def test_a_job_that_ends_while_it_is_picked_is_not_handed_out(clock, make_job):
    batcher = new_batcher(clock)
    ending, mate = submit(batcher, make_job(), make_job())
    ending.end(Cancelled("by the other thread, which has not yet come to leave()"))
    batch = batcher.take(Slot())
    batcher.leave(ending)
    assert (batch.jobs, batch.live) == ([mate], 1)
    assert books(batcher) == (0, 0, 0, 1)


def test_an_executor_goes_on_waiting_when_all_it_picks_has_just_ended(clock, make_job):
    batcher = new_batcher(clock)
    idle_slot(batcher)
    (ending,) = submit(batcher, make_job())
    ending.end(Cancelled("in another thread"))
    assert batcher.dispatch(math.inf) is None
    assert books(batcher) == (0, 0, 0, 0)
    jobs = submit(batcher, make_job())
    assert batcher.dispatch(math.inf).jobs == [*jobs]


def test_a_run_is_stopped_only_when_its_last_member_leaves(clock, make_job):
    batcher = new_batcher(clock)
    jobs = submit(batcher, make_job(), make_job(), make_job())
    batch, stopped = batcher.take(Slot()), []
    batch.arm(lambda: stopped.append(True))
    for job in jobs[:2]:
        job.cancel()
    assert (stopped, books(batcher)) == ([], (0, 0, 0, 1))
    jobs[2].cancel()
    jobs[2].cancel()
    assert (stopped, books(batcher)) == ([True], (0, 0, 0, 0))


def test_a_run_that_begins_after_everybody_left_is_stopped_at_once(clock, make_job):
    batcher = new_batcher(clock)
    (job,) = submit(batcher, make_job())
    batch, stopped = batcher.take(Slot()), []
    job.cancel()
    batch.arm(lambda: stopped.append(True))
    assert stopped == [True]


def test_a_job_ends_once_however_many_threads_end_it(make_job):
    def attempts(job):
        result = Result("m", "1", (), None)
        return [
            lambda: job.end(result),
            job.cancel,
            lambda: job.withdraw(DeadlineExceeded("late")),
            lambda: job.end(ModelRunFailed("failed")),
        ]

    kinds = 4
    rounds, barrier = 300, threading.Barrier(2 * kinds)
    jobs = [make_job() for _ in range(rounds)]
    left = [[] for _ in range(rounds)]
    won = [[] for _ in range(rounds)]
    for job, leavers in zip(jobs, left, strict=True):
        job.leave = leavers.append

    def race(kind):
        for i, job in enumerate(jobs):
            attempt = attempts(job)[kind % kinds]
            barrier.wait()
            if attempt():
                won[i].append(kind)

    threads = [threading.Thread(target=race, args=(kind,)) for kind in range(2 * kinds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job, leavers, winners in zip(jobs, left, won, strict=True):
        withdrawn = isinstance(job.outcome, Cancelled | DeadlineExceeded)
        assert len(leavers) == withdrawn
        assert len(winners) == (not withdrawn)


def test_a_discarded_job_tells_nobody_and_cannot_end(make_job):
    job = make_job()
    assert job.discard()
    assert not job.discard()
    assert not job.end(Cancelled("too late"))
    job.cancel()
    assert job.outcomes == []


# Slots


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


# Runs


class Hooked:
    """A session that doubles its rows. `before` and `fails` may do and refuse what they like, run by run."""

    def __init__(self, before=lambda rows: None, fails=lambda rows: False):
        self.runs = []
        self._before = before
        self._fails = fails

    def run(self, feeds, outputs, handle=None):
        rows = feeds["x"][:, 0].tolist()
        self.runs.append(rows)
        self._before(rows)
        if self._fails(rows):
            raise RunFailed("as asked")
        return [2 * feeds["x"] for _ in outputs]


def model_spec(instances=1, **policy):
    return ModelSpec(
        name="m",
        version="1",
        inputs=COLUMN,
        outputs=ANSWER,
        batching=BatchPolicy(**{"enabled": True} | policy),
        requested_providers=("CPUExecutionProvider",),
        providers=("CPUExecutionProvider",),
        instances=instances,
    )


def runner_of(session, batcher, clock, **policy):
    return BatchRunner(model_spec(**policy), session, batcher, clock)


def values(make_job, *numbers, **fields):
    return [make_job(value=number, outputs=ANSWER, **fields) for number in numbers]


def answer(job):
    return job.outcome.outputs[0][1].ravel().tolist()


def test_members_that_leave_between_batch_and_run_leave_the_others_untouched(clock, make_job):
    batcher, session = new_batcher(clock), Hooked()
    jobs = submit(batcher, *values(make_job, 1, 2, 3))
    batch = batcher.take(Slot())
    jobs[1].cancel()
    runner_of(session, batcher, clock).run(batch).scatter()
    assert (answer(jobs[0]), answer(jobs[2])) == ([2], [6])
    assert isinstance(jobs[1].outcome, Cancelled)
    assert books(batcher) == (0, 0, 0, 0)


def test_a_batch_that_everybody_left_before_its_run_is_not_run(clock, make_job):
    batcher, session = new_batcher(clock), Hooked()
    jobs = submit(batcher, *values(make_job, 1, 2))
    batch = batcher.take(Slot())
    for job in jobs:
        job.cancel()
    assert runner_of(session, batcher, clock).run(batch) is None
    assert session.runs == []
    assert books(batcher) == (0, 0, 0, 0)


def test_members_that_leave_during_the_run_leave_the_others_untouched(clock, make_job):
    batcher = new_batcher(clock)
    jobs = submit(batcher, *values(make_job, 1, 2, 3))
    session = Hooked(before=lambda _: jobs[0].cancel())
    runner_of(session, batcher, clock).run(batcher.take(Slot())).scatter()
    assert (answer(jobs[1]), answer(jobs[2])) == ([4], [6])
    assert isinstance(jobs[0].outcome, Cancelled)
    assert books(batcher) == (0, 0, 0, 0)


def test_members_that_leave_while_results_are_scattered_leave_the_others_untouched(clock, make_job):
    batcher = new_batcher(clock)
    third, fourth = values(make_job, 3, 4)
    first = make_job(value=1, outputs=ANSWER, then=third.cancel)
    submit(batcher, first, *values(make_job, 2), third, fourth)
    runner_of(Hooked(), batcher, clock).run(batcher.take(Slot())).scatter()
    assert (answer(first), answer(fourth)) == ([2], [8])
    assert isinstance(third.outcome, Cancelled)
    assert books(batcher) == (0, 0, 0, 0)


def test_each_job_gets_the_rows_and_outputs_that_it_asked_for(clock, make_job):
    batcher = new_batcher(clock)
    wide = make_job(3, value=5, outputs=ANSWER)
    none = make_job(2, value=6)
    empty = make_job(0, outputs=ANSWER)
    submit(batcher, none, empty, wide)
    runner_of(Hooked(), batcher, clock).run(batcher.take(Slot())).scatter()
    assert answer(wide) == [10, 10, 10]
    assert none.outcome.outputs == []
    assert empty.outcome.outputs[0][1].shape == (0, 1)
    assert (wide.outcome.receipt.batch_rows, wide.outcome.receipt.batch_requests) == (5, 3)


def test_a_receipt_tells_the_wait_for_an_executor_from_the_wait_for_mates(clock, make_job):
    batcher = new_batcher(clock)
    busy, late = submit(batcher, *values(make_job, 1, arrived=100.0), *values(make_job, 2, arrived=104.0))
    clock.now = 103.0  # the executor becomes free
    batch = batcher.take(Slot())

    def compute(_):
        clock.now += 0.5

    clock.now = 105.0
    runner_of(Hooked(before=compute), batcher, clock).run(batch).scatter()
    told = [job.outcome.receipt[:3] for job in (busy, late)]
    assert told == [(3_000_000, 2_000_000, 500_000), (0, 1_000_000, 500_000)]


def test_only_the_guilty_fail_and_everybody_else_is_answered(clock, make_job):
    batcher, session = new_batcher(clock), Hooked(fails=lambda rows: 3 in rows)
    jobs = submit(batcher, *values(make_job, *range(8)))
    assert runner_of(session, batcher, clock).run(batcher.take(Slot())) is None
    assert isinstance(jobs[3].outcome, ModelRunFailed)
    assert [answer(job) for job in jobs if job is not jobs[3]] == [[2 * i] for i in range(8) if i != 3]
    assert session.runs == [[*range(8)], [0, 1, 2, 3], [0, 1], [2, 3], [2], [3], [4, 5, 6, 7]]
    assert books(batcher) == (0, 0, 0, 0)


def test_who_leaves_while_a_failed_batch_is_halved_is_not_run_again(clock, make_job):
    batcher = new_batcher(clock)
    jobs = submit(batcher, *values(make_job, 1, 2, 3, 4))

    def leave(rows):
        if rows == [1, 2]:
            jobs[2].cancel()
            jobs[3].cancel()

    session = Hooked(before=leave, fails=lambda rows: len(rows) == 4)
    runner_of(session, batcher, clock).run(batcher.take(Slot()))
    assert (answer(jobs[0]), answer(jobs[1])) == ([2], [4])
    assert session.runs == [[1, 2, 3, 4], [1, 2]]
    assert books(batcher) == (0, 0, 0, 0)
    assert not batcher._running


def test_deadlines_are_kept_while_the_other_half_of_a_failed_batch_runs(clock, make_job):
    batcher, following = new_batcher(clock), []
    jobs = submit(batcher, *values(make_job, 1, 2), *values(make_job, 3, 4, deadline=101.0))

    def expire(rows):
        if rows == [1, 2]:
            following.append(batcher.expire(100.5))
            batcher.expire(101.0)
            assert [len(job.outcomes) for job in jobs] == [0, 0, 1, 1]

    session = Hooked(before=expire, fails=lambda rows: len(rows) == 4)
    runner_of(session, batcher, clock).run(batcher.take(Slot()))
    assert following == [101.0]
    assert session.runs == [[1, 2, 3, 4], [1, 2]]
    assert all(isinstance(job.outcome, DeadlineExceeded) for job in jobs[2:])


def test_members_of_the_other_half_of_a_failed_batch_count_as_running(clock, make_job):
    batcher, seen = new_batcher(clock), []
    submit(batcher, *values(make_job, 1, 2, 3, 4))
    session = Hooked(before=lambda _: seen.append(batcher.load().running_jobs), fails=lambda rows: len(rows) == 4)
    runner_of(session, batcher, clock).run(batcher.take(Slot()))
    assert seen == [4, 4, 2]


def test_a_defect_ends_every_member_and_the_next_batch_succeeds(clock, make_job):
    def stumble(rows):
        if 1 in rows:
            raise ZeroDivisionError("a defect")

    batcher, session = new_batcher(clock), Hooked(before=stumble)
    runner = runner_of(session, batcher, clock)
    jobs = submit(batcher, *values(make_job, 1, 2))
    assert runner.run(batcher.take(Slot())) is None
    assert all(isinstance(job.outcome, ModelRunFailed) for job in jobs)
    (healthy,) = submit(batcher, *values(make_job, 3))
    runner.run(batcher.take(Slot())).scatter()
    assert answer(healthy) == [6]


def test_an_output_without_a_row_for_each_row_fails_instead_of_being_misdealt(clock, make_job):
    class Shrinking:
        def run(self, feeds, outputs, handle=None):
            return [feeds["x"][:1]]

    batcher = new_batcher(clock)
    alone, *_ = jobs = submit(batcher, *values(make_job, 1, 2))
    runner_of(Shrinking(), batcher, clock).run(batcher.take(Slot()))
    assert (answer(alone), answer(jobs[1])) == ([1], [2])
    (pair,) = submit(batcher, make_job(2, outputs=ANSWER))
    runner_of(Shrinking(), batcher, clock).run(batcher.take(Slot()))
    assert isinstance(pair.outcome, ModelRunFailed)


def test_the_inputs_of_a_job_are_freed_with_its_answer(clock, make_job):
    batcher = new_batcher(clock)
    job = make_job(outputs=ANSWER)
    column = weakref.ref(job.inputs[0])
    submit(batcher, job)
    gc.collect()
    gc.disable()
    try:
        runner_of(Hooked(), batcher, clock).run(batcher.take(Slot())).scatter()
        assert answer(job) == [0]
        del job
        assert column() is None
    finally:
        gc.enable()


# Executors


class Counting:
    """A session that knows how many of its runs go on at a time, and lets other threads in during each."""

    def __init__(self):
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.runs = 0

    def run(self, feeds, outputs, handle=None):
        with self._lock:
            self._now += 1
            self.runs += 1
            self.most = max(self.most, self._now)
        for _ in range(3):
            os.sched_yield()
        with self._lock:
            self._now -= 1
        return [2 * feeds["x"] for _ in outputs]


def started(session, clock=lambda: 0.0, max_inline=0.0, **spec):
    model = ServedModel(model_spec(**spec), session, make_services(clock), max_inline)
    model.start()
    return model


@pytest.mark.parametrize("max_delay", [0.0, 0.0005], ids=["natural", "delayed"])
@pytest.mark.parametrize("max_inline", [0.0, math.inf], ids=["executors", "inline"])
@pytest.mark.parametrize("instances", [1, 2])
def test_there_are_never_more_runs_than_instances_and_every_job_ends(make_job, instances, max_inline, max_delay):
    session = Counting()
    model = started(session, time.monotonic, max_inline, instances=instances, max_rows=3, max_delay=max_delay)
    threads, bursts = 8, 40
    barrier = threading.Barrier(threads)
    jobs = [[] for _ in range(threads)]

    def submit_bursts(i):
        barrier.wait()
        for burst in range(bursts):
            mine = [make_job(1, value=i * 1000 + burst + j, outputs=ANSWER, arrived=time.monotonic()) for j in range(2)]
            jobs[i] += mine
            for job in mine:
                model.queue(job)
            model.flush()
            if burst % 5 == 0:
                mine[0].cancel()
            for job in mine:  # the next burst finds the slots asleep as often as busy
                assert job.over.wait(10), model.load()

    workers = [threading.Thread(target=submit_bursts, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    ended = [len(job.outcomes) for job in itertools.chain(*jobs)]
    model.stop()
    assert ended == [1] * (threads * bursts * 2)
    for job in itertools.chain(*jobs):
        assert isinstance(job.outcome, Cancelled) or answer(job) == [2 * job.inputs[0][0, 0]]
    assert session.most <= instances


def test_all_instances_run_when_one_burst_brings_work_for_all(make_job):
    meeting = threading.Barrier(3)

    class Meeting:
        def run(self, feeds, outputs, handle=None):
            meeting.wait(10)  # the runs end only when the others have begun
            return [feeds["x"]]

    model = started(Meeting(), instances=3, max_rows=1)
    jobs = values(make_job, 1, 2, 3)
    for job in jobs:
        model.queue(job)
    model.flush()
    assert all(job.over.wait(20) for job in jobs)
    model.stop()
    assert [answer(job) for job in jobs] == [[1], [2], [3]]


def test_a_stopped_model_finishes_what_waits_and_refuses_what_comes(make_job):
    model = started(Counting(), max_rows=1)
    jobs = values(make_job, *range(20))
    for job in jobs:
        model.queue(job)
    model.flush()
    model.stop()
    assert [answer(job) for job in jobs] == [[2 * i] for i in range(20)]
    with pytest.raises(ModelStopped):
        model.queue(make_job())


def test_a_job_that_is_too_late_to_run_is_answered_before_the_model_has_stopped(clock, make_job):
    session = Counting()
    model = ServedModel(model_spec(), session, make_services(clock))
    job = make_job(deadline=101.0)
    model.queue(job)
    clock.now = 101.0
    model.start()
    model.stop()
    assert isinstance(job.outcome, DeadlineExceeded)
    assert session.runs == 0


def test_the_executor_lives_on_after_a_failed_run(make_job):
    model = started(Hooked(fails=lambda rows: 1 in rows))
    for number in (1, 2, 1, 3):
        (job,) = values(make_job, number)
        model.queue(job)
        model.flush()
        assert job.over.wait(10)
        assert isinstance(job.outcome, ModelRunFailed) if number == 1 else answer(job) == [2 * number]
    model.stop()
