"""Jobs that end before their answer: cancelled as they wait, as they are picked, or as they run."""

import math
import threading

from onnxserve_server.core import Result
from onnxserve_server.errors import Cancelled, DeadlineExceeded, ModelRunFailed
from onnxserve_server.scheduling.batch import Slot
from support.batching import counts, idle_slot, new_batcher, submit


def test_a_cancelled_job_leaves_its_place_in_the_queue(clock, make_job):
    batcher = new_batcher(clock)
    first, leaving, last = submit(batcher, make_job(1), make_job(2), make_job(3))
    leaving.cancel()
    assert isinstance(leaving.outcome, Cancelled)
    assert counts(batcher) == (2, 4, 16, 0)
    assert batcher.take(Slot()).jobs == [first, last]


def test_a_job_that_ends_while_it_is_picked_is_not_handed_out(clock, make_job):
    batcher = new_batcher(clock)
    ending, mate = submit(batcher, make_job(), make_job())
    ending.end(Cancelled("by the other thread, which has not yet come to leave()"))
    batch = batcher.take(Slot())
    batcher.leave(ending)
    assert (batch.jobs, batch.live) == ([mate], 1)
    assert counts(batcher) == (0, 0, 0, 1)


def test_an_executor_goes_on_waiting_when_all_it_picks_has_just_ended(clock, make_job):
    batcher = new_batcher(clock)
    idle_slot(batcher)
    (ending,) = submit(batcher, make_job())
    ending.end(Cancelled("in another thread"))
    assert batcher.dispatch(math.inf) is None
    assert counts(batcher) == (0, 0, 0, 0)
    jobs = submit(batcher, make_job())
    assert batcher.dispatch(math.inf).jobs == [*jobs]


def test_a_run_is_stopped_only_when_its_last_member_leaves(clock, make_job):
    batcher = new_batcher(clock)
    jobs = submit(batcher, make_job(), make_job(), make_job())
    batch, stopped = batcher.take(Slot()), []
    batch.arm(lambda: stopped.append(True))
    for job in jobs[:2]:
        job.cancel()
    assert (stopped, counts(batcher)) == ([], (0, 0, 0, 1))
    jobs[2].cancel()
    jobs[2].cancel()
    assert (stopped, counts(batcher)) == ([True], (0, 0, 0, 0))


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
