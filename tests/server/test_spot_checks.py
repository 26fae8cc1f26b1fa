"""Rows of batches that are run again without their neighbours: what a check finds, when it runs, and what follows."""

from dataclasses import replace

import numpy as np
import pytest

from onnxserve.tensor import DataType
from onnxserve_server.observing import CheckResult
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.scheduling.batch import Batch, Slot
from onnxserve_server.scheduling.running import BatchRunner
from onnxserve_server.scheduling.spot_checks import Judge, Sample, SpotChecks, take_sample
from onnxserve_server.spec import Rows, TensorSpec
from support.batching import ANSWER, Hooked, answer, model_spec, new_batcher, submit, values


def judged(function, *rows, row=0, then=None, dtype=np.float32, spec=None):
    """What a check finds of a row of a batch whose outputs a function of x gives. `then` stands for later runs."""
    batch = np.array(rows, dtype).reshape(len(rows), 1)
    outputs = function(batch)
    later = then or function
    sample = Sample({"x": batch[row : row + 1]}, {"y": outputs[row : row + 1]}, row, len(rows))
    return Judge(spec or model_spec(), lambda feeds, names: [later(feeds["x"]) for _ in names])(sample)


def doubling(x):
    """x, but 2 x if any value is above 7."""
    return x * (2 if (x > 7).any() else 1)


def with_output(data_type):
    """A model's spec whose output has another type."""
    return replace(model_spec(), outputs=(TensorSpec(name="y", data_type=data_type, shape=("batch", 1)),))


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (lambda x: 2 * x, CheckResult.SAME),
        (lambda x: x * np.float32(1.000001 if len(x) > 1 else 1), CheckResult.SAME),
        (lambda x: x * np.float32(1.007 if len(x) > 1 else 1), CheckResult.ROUNDING),
        (lambda x: x - x.mean(0), CheckResult.DEPENDENT),
        (doubling, CheckResult.DEPENDENT),
        (lambda x: x * np.float32(1 + 1e-4 * x.max()), CheckResult.DEPENDENT),
        (lambda x: np.repeat(x, int(x.max()), 1), CheckResult.DEPENDENT),
        (lambda x: x[::-1], CheckResult.DEPENDENT),
    ],
)
def test_a_row_that_changes_with_its_neighbours_is_told_from_one_that_is_rounded_by_the_batch_size(function, result):
    assert judged(function, 1, 2, 9)[0] is result


def test_a_dependence_that_a_row_causes_itself_shows_in_the_others():
    assert judged(doubling, 1, 9, row=1)[0] is CheckResult.SAME
    assert judged(doubling, 1, 9, row=0)[0] is CheckResult.DEPENDENT


def test_the_reason_names_output_row_and_change():
    _, reason = judged(doubling, 1, 2, 9, row=1)
    assert reason == (
        "a spot check found that a row of its output y depends on the other rows of its batch: row 1 of 3 changed by "
        "1 of its largest magnitude"
    )


def test_ties_of_an_argmax_that_fall_another_way_at_another_batch_size_are_no_dependence():
    spec = with_output(DataType.DATA_TYPE_INT64)
    assert judged(lambda x: np.full((len(x), 1), len(x) > 1, np.int64), 1, 2, spec=spec) == (CheckResult.ROUNDING, "")


def test_an_output_that_differs_from_run_to_run_is_no_dependence():
    rng = np.random.default_rng(0)
    assert judged(lambda x: rng.random(x.shape, np.float32), 1, 2)[0] is CheckResult.RANDOM


def test_not_a_number_and_infinity_are_values_like_others():
    with np.errstate(all="ignore"):
        assert judged(np.log, -1, 0, 1, row=0)[0] is CheckResult.SAME
        assert judged(np.log, -1, 0, 1, row=1)[0] is CheckResult.SAME
        assert judged(lambda x: x / (x.min() > 0), 1, 0, row=0)[0] is CheckResult.DEPENDENT


def test_texts_are_compared():
    spec = with_output(DataType.DATA_TYPE_STRING)

    def names(x):
        return np.full(x.shape, f"the largest is {x.max()}", object)

    assert judged(names, 1, 2, spec=spec)[0] is CheckResult.DEPENDENT
    assert judged(names, 2, 2, spec=spec)[0] is CheckResult.SAME


def test_a_sample_is_a_row_of_some_job_at_its_place_in_the_batch(make_job):
    jobs = [make_job(2, value=1), make_job(0), make_job(3, value=5)]
    columns = {"y": np.array([[10], [11], [12], [13], [14]], np.float32)}
    taken = [take_sample(Batch(jobs, 5, Slot()), columns, model_spec()) for _ in range(200)]
    assert {(sample.row, sample.inputs["x"].item(), sample.outputs["y"].item()) for sample in taken} == {
        (0, 1, 10),
        (1, 1, 11),
        (2, 5, 12),
        (3, 5, 13),
        (4, 5, 14),
    }
    assert all(array.base is None for sample in taken for array in (sample.inputs["x"], sample.outputs["y"]))


class Watcher:
    """An observer of spot checks."""

    def __init__(self):
        self.checks = []

    def on_run(self, run):
        pass

    def on_spot_check(self, check):
        self.checks.append(check.result)


class Checked:
    """A runner with spot checks, and its batcher."""

    def __init__(self, clock, session=None, max_rows=64, **policy):
        self.session = session or Hooked()
        self.watcher = Watcher()
        self.batcher = new_batcher(clock, max_rows=max_rows)
        spec = model_spec(**{"spot_checks": 0.02} | policy)
        self.runner = BatchRunner(spec, self.session, self.batcher, clock, self.watcher)

    def run(self, jobs):
        submit(self.batcher, *jobs)
        run = self.runner.run(self.batcher.take(Slot()))
        if run is not None:
            run.scatter()
            self.runner.spot_check(run)


class Ticking:
    """A clock on which a moment passes whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 12e-6
        return self.now


def affected_until_found(rng, make_job, share_of_requests=0.005, rows=8):
    """How many batches of eight callers were affected until a value of one of them was found to change the others."""
    found, seen = [], []
    clock = Ticking()

    def run(feeds, names):
        return [doubling(feeds["x"]) for _ in names]

    spec = model_spec(spot_checks=0.02)
    checks = SpotChecks(spec, run, clock, on_check=seen.append, on_dependence=found.append, cpu_time=clock)
    run_seconds, affected = 0.0, 0
    while not found:
        x = rng.standard_normal((rows, 1)).astype(np.float32)
        x[rng.random(rows) < share_of_requests] = 7 + rng.exponential()
        run_seconds += 30e-6
        affected += bool((x > 7).any() and not (x > 7).all())
        jobs = [make_job(1, inputs=(x[i : i + 1],)) for i in range(rows)]
        checks.after(Batch(jobs, rows, Slot()), {"y": doubling(x)}, run_seconds, waiting=False)
    return affected


def test_a_dependence_on_values_beyond_those_of_other_callers_is_found_as_soon_as_the_docs_promise(make_job):
    rng = np.random.default_rng(0)
    found = [affected_until_found(rng, make_job) for _ in range(60)]
    assert np.quantile(found, 0.95) <= 20


def test_a_row_beyond_is_not_the_one_that_is_taken(make_job):
    jobs = [make_job(1, value=value) for value in (1, 2, 3)]
    columns = {"y": np.zeros((3, 1), np.float32)}
    taken = {take_sample(Batch(jobs, 3, Slot()), columns, model_spec(), 1).row for _ in range(100)}
    assert taken == {0, 2}


def test_the_first_batch_is_checked_after_it_was_answered(clock, make_job):
    jobs = values(make_job, 1, 1)
    checked = Checked(clock, Hooked(before=lambda rows: len(rows) == 1 and seen.extend(map(answer, jobs))))
    seen = []
    checked.run(jobs)
    assert seen == [[2], [2]]
    assert checked.session.runs == [[1, 1], [1]]
    assert checked.watcher.checks == [CheckResult.SAME]


@pytest.mark.parametrize("policy", [{"spot_checks": 0.0}, {"enabled": False}])
def test_without_a_share_or_batches_nothing_is_checked(clock, make_job, policy):
    checked = Checked(clock, **policy)
    checked.run([make_job(2, value=1, outputs=ANSWER)])
    assert checked.session.runs == [[1, 1]]


def test_a_batch_of_one_row_is_not_checked(clock, make_job):
    checked = Checked(clock)
    checked.run(values(make_job, 1))
    assert checked.session.runs == [[1]]


def test_a_check_lets_eight_batches_go_first_while_jobs_wait(clock, make_job):
    checked = Checked(clock, max_rows=2)
    waiting = values(make_job, *range(100))
    checked.run(waiting)
    lone = []
    while checked.batcher.has_waiting:
        checked.run([])
        lone.append(sum(len(run) == 1 for run in checked.session.runs))
    assert lone.index(1) == 7
    assert all(job.outcomes for job in waiting)


def test_a_check_that_is_due_runs_as_soon_as_nothing_waits(clock, make_job):
    checked = Checked(clock, max_rows=2)
    checked.run(values(make_job, 1, 1, 1, 1))
    assert checked.session.runs == [[1, 1]]
    checked.run([])
    assert checked.session.runs == [[1, 1], [1, 1], [1]]


def test_a_dependence_stops_batching_at_once(clock, make_job, caplog):
    class Mixing(Hooked):
        def run(self, feeds, outputs, handle=None):
            super().run(feeds, outputs)
            clock.now += 1.0
            return [doubling(feeds["x"]) for _ in outputs]

    checked = Checked(clock, Mixing())
    while checked.runner.spec.batching.enabled:
        checked.run(values(make_job, 1, 9))
    assert CheckResult.DEPENDENT in checked.watcher.checks
    batching = checked.runner.spec.batching
    assert (batching.enabled, batching.rows.rows) == (False, Rows.DEPENDENT)
    assert "output y" in batching.reason
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "output y" in line.getMessage()
    assert (line.model, line.version) == ("m", "1")
    jobs = values(make_job, 1, 9)
    checked.run(jobs)
    checked.run([])
    assert [answer(job) for job in jobs] == [[1], [18]]


@pytest.mark.parametrize("error", [RunFailed("no"), ValueError("a defect")])
def test_a_check_that_fails_costs_nobody_an_answer(clock, make_job, error):
    def fail(rows):
        if len(rows) == 1:
            raise error

    checked = Checked(clock, Hooked(before=fail))
    jobs = values(make_job, 1, 2)
    checked.run(jobs)
    assert [answer(job) for job in jobs] == [[2], [4]]
    assert checked.watcher.checks == [CheckResult.FAILED]


def test_a_model_that_stops_is_not_checked(clock, make_job):
    checked = Checked(clock)
    submit(checked.batcher, *values(make_job, 1, 2))
    checked.batcher.close()
    checked.run([])
    assert checked.session.runs == [[1, 2]]


def test_no_row_is_kept_once_batching_has_stopped(clock, make_job):
    checked = Checked(clock, max_rows=2)
    checked.run(values(make_job, 1, 1, 1, 1))
    checked.runner.stop_batching("so")
    checked.run([])
    assert checked.session.runs == [[1, 1], [1]]


def test_shared_inputs_and_other_axes_are_sampled_and_copied_as_they_are(make_job):
    along = TensorSpec(name="x", data_type=DataType.DATA_TYPE_FLOAT, shape=(2, "batch"), batch_axis=1)
    shared = TensorSpec(name="s", data_type=DataType.DATA_TYPE_FLOAT, shape=("k",), batch_axis=None)
    result = TensorSpec(name="y", data_type=DataType.DATA_TYPE_FLOAT, shape=(2, "batch"), batch_axis=1)
    spec = replace(model_spec(), inputs=(along, shared), outputs=(result,))
    x, s = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.float32)
    seen = []

    def run(feeds, names):
        seen.append({name: array.shape for name, array in feeds.items()})
        return [feeds["x"] - feeds["x"].mean(1, keepdims=True)]

    columns = {"y": x - x.mean(1, keepdims=True) + 7}
    sample = take_sample(Batch([make_job(3, inputs=(x, s))], 3, Slot()), columns, spec)
    assert Judge(spec, run)(sample)[0] is CheckResult.DEPENDENT
    assert seen[0] == {"x": (2, 1), "s": (4,)}
    assert seen[1] == {"x": (2, 3), "s": (4,)}
