"""What is run when more is asked for than can be done. By a hand-moved clock: no time passes."""

import math
import random

import pytest

from support.batching import new_batcher
from support.offering import offer

RUN = 0.012  # seconds
TIMEOUT = 0.5


def load_of(make_job, rate, seconds, timeout=TIMEOUT, **fields):
    """Jobs that arrive at random, so many a second."""
    draw, now, jobs = random.Random(7), 100.0, []
    while (now := now + draw.expovariate(rate)) < 100.0 + seconds:
        jobs.append(make_job(arrived=now, deadline=now + timeout, **fields))
    return jobs


def noisy(seconds, seed=3):
    """Runs of about so long: one in ten takes half as long again, one in a hundred five times as long."""
    draw = random.Random(seed)

    def seconds_of(_):
        lot = draw.random()
        return seconds * (5 if lot < 0.01 else 1.5 if lot < 0.1 else draw.uniform(0.9, 1.1))

    return seconds_of


@pytest.mark.parametrize("policy", [{"enabled": False}, {"max_rows": 4}], ids=["single", "batched"])
@pytest.mark.parametrize("times", [1.5, 10])
@pytest.mark.parametrize("seconds_of", [lambda _: RUN, noisy(RUN)], ids=["even", "noisy"])
def test_goodput_stays_at_the_capacity_however_much_is_offered(clock, make_job, policy, times, seconds_of):
    batcher = new_batcher(clock, **policy)
    rows = policy.get("max_rows", 1)
    outcome = offer(clock, batcher, load_of(make_job, times * rows / RUN, 3.0), seconds_of)
    assert outcome.wasted <= 0.04 * outcome.busy
    assert outcome.busy >= 0.97 * 3.0
    assert len(outcome.good) >= 0.94 * rows * len(outcome.runs)


@pytest.mark.parametrize("policy", [{"enabled": False}, {"max_rows": 4}], ids=["single", "batched"])
def test_who_cannot_be_served_knows_at_once(clock, make_job, policy):
    batcher = new_batcher(clock, **policy)
    outcome = offer(clock, batcher, load_of(make_job, 10 * policy.get("max_rows", 1) / RUN, 2.0), lambda _: RUN)
    assert len(outcome.refused) > 30 * len(outcome.late)


def test_below_the_capacity_nobody_is_refused(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    jobs = load_of(make_job, 0.8 / RUN, 10.0)
    assert len(offer(clock, batcher, jobs, lambda _: RUN).good) == len(jobs)


def test_bursts_that_fit_into_a_few_runs_are_all_served(clock, make_job):
    batcher = new_batcher(clock, max_rows=64)
    jobs = [make_job(arrived=100.0 + i // 150, deadline=100.0 + i // 150 + 0.1) for i in range(1500)]
    outcome = offer(clock, batcher, jobs, lambda batch: 0.005 + 0.0002 * batch.rows)
    assert len(outcome.good) >= 1500 - 150  # the first burst is run before anything is known


def test_batches_are_no_larger_than_the_deadlines_allow(clock, make_job):
    batcher = new_batcher(clock, max_rows=64)  # 64 rows take 650 ms, more than anybody has
    outcome = offer(clock, batcher, load_of(make_job, 500, 5.0), lambda batch: 0.010 + 0.010 * batch.rows)
    assert outcome.wasted <= 0.05 * outcome.busy
    assert len(outcome.good) >= 0.8 * 5.0 / 0.010  # rows that can be run in all


def test_runs_that_become_slower_are_followed(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    outcome = offer(clock, batcher, load_of(make_job, 400, 8.0), lambda _: RUN if clock.now < 104.0 else 5 * RUN)
    assert outcome.wasted <= 0.1 * outcome.busy
    assert len(outcome.good) >= 0.9 * (4.0 / RUN + 4.0 / (5 * RUN))


def test_runs_that_become_faster_are_followed(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    outcome = offer(clock, batcher, load_of(make_job, 400, 8.0), lambda _: 5 * RUN if clock.now < 104.0 else RUN)
    assert len(outcome.good) >= 0.9 * (4.0 / RUN + 4.0 / (5 * RUN))


def test_a_bad_minute_keeps_nobody_out_for_long_afterwards(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    jobs = load_of(make_job, 40, 40.0)
    outcome = offer(clock, batcher, jobs, lambda _: 3.0 if clock.now < 110.0 else RUN)
    served_late = [job for job in outcome.good if job.arrived >= 125.0]
    assert len(served_late) >= 0.98 * sum(job.arrived >= 125.0 for job in jobs)


def test_a_first_run_that_is_slow_keeps_nobody_out_for_long(clock, make_job):
    batcher, runs = new_batcher(clock, enabled=False), []

    def seconds_of(_):
        runs.append(clock.now)
        return 0.4 if len(runs) == 1 else RUN

    jobs = load_of(make_job, 40, 10.0, timeout=0.2)
    outcome = offer(clock, batcher, jobs, seconds_of)
    assert len(outcome.good) >= 0.7 * len(jobs)


def test_a_model_that_nobody_has_time_for_is_tried_now_and_then_and_no_more(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    outcome = offer(clock, batcher, load_of(make_job, 400, 60.0, timeout=0.1), lambda _: 0.5)
    assert 10 <= len(outcome.runs) <= 40
    assert not outcome.good


def test_row_shapes_are_estimated_apart(clock, make_job):
    batcher = new_batcher(clock, max_rows=8)
    short = load_of(make_job, 20, 10.0, key="short", timeout=0.2)
    long = load_of(make_job, 2, 10.0, key="long", timeout=0.2)
    outcome = offer(clock, batcher, short + long, lambda batch: 0.3 if batch.key == "long" else 0.004)
    assert outcome.wasted <= 4.0  # the long ones are tried a few times, and are otherwise refused
    assert sum(job.key == "short" for job in outcome.good) >= 0.6 * len(short)


def test_high_priority_is_served_under_overload(clock, make_job):
    batcher = new_batcher(clock, enabled=False)
    low, high = load_of(make_job, 400, 5.0), load_of(make_job, 20, 5.0, priority=1)
    outcome = offer(clock, batcher, low + high, lambda _: RUN)
    assert sum(job.priority == 1 for job in outcome.good) >= 0.97 * len(high)
    assert outcome.wasted <= 0.02 * outcome.busy


def test_an_urgent_request_has_its_run_cut_to_what_it_can_wait_for(clock, make_job):
    batcher = new_batcher(clock, max_rows=64)
    calm = [make_job(arrived=100.0 + i, deadline=math.inf) for i in range(8) for _ in range(2**i // 2)]
    offer(clock, batcher, calm, lambda batch: 0.01 * batch.rows)
    urgent = make_job(arrived=200.0, deadline=200.1, priority=1)
    others = [make_job(arrived=200.0, deadline=201.0) for _ in range(30)]
    outcome = offer(clock, batcher, [urgent, *others], lambda batch: 0.01 * batch.rows)
    assert len(outcome.good) == 31
    assert outcome.runs[0] < 10
