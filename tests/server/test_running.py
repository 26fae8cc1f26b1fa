"""Batches run on a session: rows, receipts, failures, and members that leave."""

import gc
import weakref
from dataclasses import replace

import numpy as np

from onnxserve_server.errors import Cancelled, DeadlineExceeded, ModelRunFailed
from onnxserve_server.scheduling.batch import Slot
from onnxserve_server.scheduling.running import BatchRunner
from onnxserve_server.spec import Rows, RowVerdict
from support.batching import (
    ANSWER,
    Hooked,
    answer,
    counts,
    model_spec,
    new_batcher,
    runner_of,
    submit,
    values,
)


def test_members_that_leave_between_batch_and_run_leave_the_others_untouched(clock, make_job):
    batcher, session = new_batcher(clock), Hooked()
    jobs = submit(batcher, *values(make_job, 1, 2, 3))
    batch = batcher.take(Slot())
    jobs[1].cancel()
    runner_of(session, batcher, clock).run(batch).scatter()
    assert (answer(jobs[0]), answer(jobs[2])) == ([2], [6])
    assert isinstance(jobs[1].outcome, Cancelled)
    assert counts(batcher) == (0, 0, 0, 0)


def test_a_batch_that_everybody_left_before_its_run_is_not_run(clock, make_job):
    batcher, session = new_batcher(clock), Hooked()
    jobs = submit(batcher, *values(make_job, 1, 2))
    batch = batcher.take(Slot())
    for job in jobs:
        job.cancel()
    assert runner_of(session, batcher, clock).run(batch) is None
    assert session.runs == []
    assert counts(batcher) == (0, 0, 0, 0)


def test_members_that_leave_during_the_run_leave_the_others_untouched(clock, make_job):
    batcher = new_batcher(clock)
    jobs = submit(batcher, *values(make_job, 1, 2, 3))
    session = Hooked(before=lambda _: jobs[0].cancel())
    runner_of(session, batcher, clock).run(batcher.take(Slot())).scatter()
    assert (answer(jobs[1]), answer(jobs[2])) == ([4], [6])
    assert isinstance(jobs[0].outcome, Cancelled)
    assert counts(batcher) == (0, 0, 0, 0)


def test_members_that_leave_while_results_are_scattered_leave_the_others_untouched(clock, make_job):
    batcher = new_batcher(clock)
    third, fourth = values(make_job, 3, 4)
    first = make_job(value=1, outputs=ANSWER, then=third.cancel)
    submit(batcher, first, *values(make_job, 2), third, fourth)
    runner_of(Hooked(), batcher, clock).run(batcher.take(Slot())).scatter()
    assert (answer(first), answer(fourth)) == ([2], [8])
    assert isinstance(third.outcome, Cancelled)
    assert counts(batcher) == (0, 0, 0, 0)


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
    times = [job.outcome.receipt[:3] for job in (busy, late)]
    assert times == [(3_000_000, 2_000_000, 500_000), (0, 1_000_000, 500_000)]


def test_only_the_guilty_fail_and_everybody_else_is_answered(clock, make_job):
    batcher, session = new_batcher(clock), Hooked(fails=lambda rows: 3 in rows)
    jobs = submit(batcher, *values(make_job, *range(8)))
    assert runner_of(session, batcher, clock).run(batcher.take(Slot())) is None
    assert isinstance(jobs[3].outcome, ModelRunFailed)
    assert [answer(job) for job in jobs if job is not jobs[3]] == [[2 * i] for i in range(8) if i != 3]
    assert session.runs == [[*range(8)], [0, 1, 2, 3], [0, 1], [2, 3], [2], [3], [4, 5, 6, 7]]
    assert counts(batcher) == (0, 0, 0, 0)


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
    assert counts(batcher) == (0, 0, 0, 0)
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


class Shrinking(Hooked):
    """A session whose output has the first row alone."""

    def run(self, feeds, outputs, handle=None):
        return [array[:1] for array in super().run(feeds, outputs, handle)]


def test_the_jobs_of_a_batch_whose_output_has_not_a_row_for_each_run_one_by_one(clock, make_job):
    batcher, session = new_batcher(clock), Shrinking()
    runner = runner_of(session, batcher, clock)
    jobs = submit(batcher, *values(make_job, 1, 2, 3, 4))
    assert runner.run(batcher.take(Slot())) is None
    assert [answer(job) for job in jobs] == [[2], [4], [6], [8]]
    assert session.runs == [[1, 2, 3, 4], [1], [2], [3], [4]]
    assert not runner.spec.batching.enabled
    assert runner.spec.batching.rows == RowVerdict(Rows.DEPENDENT, "its output y had the shape [1, 1] for 4 rows")
    submit(batcher, *values(make_job, 5, 6))
    assert batcher.take(Slot()).rows == 1


def test_a_lone_job_whose_output_has_not_a_row_for_each_gets_all_of_it(clock, make_job):
    batcher, session = new_batcher(clock), Shrinking()
    runner = runner_of(session, batcher, clock)
    (pair,) = submit(batcher, make_job(2, value=1, outputs=ANSWER))
    runner.run(batcher.take(Slot())).scatter()
    assert answer(pair) == [2]
    assert session.runs == [[1, 1]]
    assert not runner.spec.batching.enabled


def test_jobs_without_rows_whose_output_has_one_are_run_with_none(clock, make_job):
    class Growing(Hooked):
        def run(self, feeds, outputs, handle=None):
            return [np.concatenate([array, array[:1] + 7]) for array in super().run(feeds, outputs, handle)]

    batcher, session = new_batcher(clock), Growing()
    runner = runner_of(session, batcher, clock)
    (empty,) = submit(batcher, make_job(0, outputs=ANSWER))
    assert runner.run(batcher.take(Slot())) is None
    assert answer(empty) == []
    assert session.runs == [[0], []]


def test_jobs_without_rows_never_run_with_none_if_that_would_end_the_process(clock, make_job):
    batcher, session = new_batcher(clock), Hooked()
    runner = BatchRunner(replace(model_spec(), needs_rows=True), session, batcher, clock)
    runner.stop_batching("a row was seen to change")
    (empty,) = submit(batcher, make_job(0, outputs=ANSWER))
    runner.run(batcher.take(Slot())).scatter()
    assert answer(empty) == []
    assert session.runs == [[0]]


def test_a_batch_that_ran_while_batching_stopped_runs_again_one_by_one(clock, make_job):
    batcher = new_batcher(clock)
    jobs = submit(batcher, *values(make_job, 1, 2))
    session = Hooked(before=lambda rows: runner.stop_batching("another run said so"))
    runner = runner_of(session, batcher, clock)
    assert runner.run(batcher.take(Slot())) is None
    assert [answer(job) for job in jobs] == [[2], [4]]
    assert session.runs == [[1, 2], [1], [2]]


def test_batching_stops_once_and_whoever_asks_is_called_with_the_new_spec(clock):
    seen = []
    runner = runner_of(Hooked(), new_batcher(clock), clock)
    runner.on_stop = seen.append
    assert [runner.stop_batching("a"), runner.stop_batching("b")] == [True, False]
    assert seen == [runner.spec]
    assert runner.spec.batching.reason == "a"


def test_the_node_that_the_graph_named_is_kept_when_batching_stops(clock):
    runner = runner_of(Hooked(), new_batcher(clock), clock, rows=RowVerdict(Rows.UNKNOWN, "an odd operator", "odd"))
    runner.stop_batching("a row was seen to change")
    assert runner.spec.batching.rows == RowVerdict(Rows.DEPENDENT, "a row was seen to change", "odd")


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
