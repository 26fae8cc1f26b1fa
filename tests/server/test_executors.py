"""Executors: threads that take batches, from start to stop."""

import itertools
import math
import os
import threading
import time

import numpy as np
import pytest

from onnxserve_server.engine.model import ServedModel
from onnxserve_server.errors import Cancelled, DeadlineExceeded, ModelRunFailed, ModelStopped
from support.batching import ANSWER, Hooked, answer, model_spec, values
from support.engines import make_services
from support.waiting import until


class Counting:
    """A session that knows how many of its runs go on at a time, and lets other threads in during each."""

    def __init__(self):
        self._lock = threading.Lock()
        self._now = 0
        self.max_now = 0
        self.runs = 0

    def run(self, feeds, outputs, handle=None):
        with self._lock:
            self._now += 1
            self.runs += 1
            self.max_now = max(self.max_now, self._now)
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
    assert session.max_now <= instances


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


@pytest.mark.parametrize(("elements", "ahead"), [(1, 8), (4 << 20, 1)], ids=["small", "large"])
def test_runs_do_not_go_far_ahead_of_the_answers_whose_memory_they_hold(clock, make_job, elements, ahead):
    may_answer = threading.Event()

    class Long(Counting):
        def run(self, feeds, outputs, handle=None):
            clock.now += 1.0
            return [np.broadcast_to(y, (1, elements)) for y in super().run(feeds, outputs, handle)]

    session = Long()
    model = started(session, clock, max_rows=1)
    jobs = values(make_job, *range(20))
    end = jobs[0].end
    jobs[0].end = lambda outcome: may_answer.wait(30) and end(outcome)
    for job in jobs:
        model.queue(job)
    model.flush()
    until(lambda: session.runs == ahead + 2)  # one is being answered, one is over and finds no room
    threading.Event().wait(0.1)  # time in which more could begin
    assert session.runs == ahead + 2
    may_answer.set()
    model.stop()
    assert [answer(job)[0] for job in jobs] == [2 * i for i in range(20)]


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


def test_a_stop_says_of_a_job_that_could_not_be_run_in_time_what_is_true(clock, make_job):
    model = ServedModel(model_spec(max_rows=1), Counting(), make_services(clock))
    model._batcher._planner.forecast.note(None, 1, 1.0, clock.now)
    model._batcher._planner.forecast.note(make_job().key, 1, 1.0, clock.now)
    job = make_job(deadline=101.5)
    model.queue(job)
    clock.now = 100.6
    model.start()
    model.stop()
    assert "cannot be met any more" in job.outcome.message


def test_the_executor_lives_on_after_a_failed_run(make_job):
    model = started(Hooked(fails=lambda rows: 1 in rows))
    for number in (1, 2, 1, 3):
        (job,) = values(make_job, number)
        model.queue(job)
        model.flush()
        assert job.over.wait(10)
        assert isinstance(job.outcome, ModelRunFailed) if number == 1 else answer(job) == [2 * number]
    model.stop()
