"""The order in which the jobs of one row shape may run."""

from hypothesis import given
from hypothesis import strategies as st

from onnxserve_server.scheduling.bucket import Bucket


def drain(bucket):
    """Empty a bucket the way the batcher does, and return the jobs in the order in which they were at its head."""
    order = []
    while bucket:
        order.append(bucket.head())
        bucket.remove(order[-1])
    return order


def filled(jobs):
    bucket = Bucket()
    for job in jobs:
        bucket.push(job)
    return bucket


def test_equal_priorities_are_served_in_order_of_arrival(make_job):
    jobs = [make_job(arrived=float(i)) for i in range(5)]
    assert drain(filled(jobs)) == jobs


def test_a_higher_priority_overtakes_what_came_shortly_before(make_job):
    low, high = make_job(arrived=0.0), make_job(arrived=0.5, priority=1)
    assert drain(filled([low, high])) == [high, low]


def test_a_job_that_has_waited_for_an_ageing_interval_is_not_overtaken(make_job):
    low, high = make_job(arrived=0.0), make_job(arrived=1.5, priority=1)
    assert drain(filled([low, high])) == [low, high]


def test_each_step_of_priority_is_worth_one_ageing_interval(make_job):
    low, high = make_job(arrived=0.0, ageing=0.1), make_job(arrived=0.35, priority=3, ageing=0.1)
    assert drain(filled([low, high])) == [low, high]
    low, high = make_job(arrived=0.0, ageing=0.1), make_job(arrived=0.35, priority=4, ageing=0.1)
    assert drain(filled([low, high])) == [high, low]


def test_an_unending_stream_of_high_priority_does_not_starve_a_low_one(make_job):
    low = make_job(arrived=0.0, priority=-2)
    bucket = filled([low])
    for i in range(1000):
        bucket.push(make_job(arrived=0.1 * i, priority=1))
        if bucket.head() is low:
            break
        bucket.remove(bucket.head())
    # Three steps of priority are worth three seconds: ten jobs come in a second, and one a round goes.
    assert 30 <= i <= 32


def test_rows_are_counted_in_and_out(make_job):
    jobs = [make_job(rows, priority=rows % 2) for rows in (3, 4, 0)]
    bucket = filled(jobs)
    assert (bucket.rows, len(bucket.jobs())) == (7, 3)
    bucket.remove(jobs[0])
    assert (bucket.rows, sorted(job.rows for job in bucket.jobs())) == (4, [0, 4])
    drain(bucket)
    assert (bucket.rows, bucket.jobs(), bool(bucket)) == (0, [], False)


def test_the_oldest_arrival_is_the_minimum_over_all_priorities(make_job):
    bucket = filled([make_job(arrived=3.0, priority=5), make_job(arrived=1.0), make_job(arrived=2.0, priority=-5)])
    assert bucket.oldest_arrival() == 1.0
    bucket.remove(next(job for job in bucket.jobs() if job.arrived == 1.0))
    assert bucket.oldest_arrival() == 2.0


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(-10, 10), st.booleans()), max_size=30))
def test_the_head_is_always_of_the_lowest_rank_whoever_leaves(make_job, arrivals):
    elapsed, jobs, leaving = 0.0, [], []
    for gap, priority, leaves in arrivals:
        elapsed += gap
        jobs.append(make_job(arrived=elapsed, priority=priority))
        if leaves:
            leaving.append(jobs[-1])
    bucket = filled(jobs)
    for job in leaving:
        bucket.remove(job)
    staying = [job for job in jobs if job not in leaving]
    assert [job.rank for job in drain(bucket)] == sorted(job.rank for job in staying)
