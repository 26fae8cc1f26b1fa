"""A request of more rows than one run takes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from onnxserve.tensor import DataType
from onnxserve_server.core import Receipt, Request, Result, WireTensor
from onnxserve_server.engine.model import ServedModel
from onnxserve_server.engine.splitting import Split
from onnxserve_server.errors import Cancelled, DeadlineExceeded, ModelRunFailed, QueueFull, ResponseTooLarge
from onnxserve_server.scheduling.batch import Batch, Slot
from onnxserve_server.scheduling.batcher import Batcher
from onnxserve_server.scheduling.response_size import ResponseSize
from onnxserve_server.spec import BatchPolicy, ModelSpec, TensorSpec
from support.batching import model_spec
from support.engines import make_engine, make_services

COLUMN = (TensorSpec(name="x", data_type=DataType.DATA_TYPE_FLOAT, shape=("batch", 1)),)
ANSWER = (TensorSpec(name="y", data_type=DataType.DATA_TYPE_FLOAT, shape=("batch", 1)),)


class Whole:
    """A model that keeps which jobs it is to run whole, and why."""

    def __init__(self, joins=True, max_bytes=math.inf):
        self.joins = joins
        self.ran = []
        self.check_answer = ResponseSize(model_spec(), max_bytes).check_after

    def run_whole(self, job, fault):
        self.ran.append((job, fault))


def split_of(whole, max_rows, model=None):
    return Split(whole, max_rows, COLUMN, model or Whole())


def counted(make_job, rows, **fields):
    """A job whose rows are 0, 1, 2, ..."""
    column = np.arange(rows, dtype=np.float32).reshape(rows, 1)
    return make_job(rows, inputs=(column,), outputs=ANSWER, nbytes=column.nbytes, **fields)


def result(part, queue_us=1, batch_rows=1):
    return Result("m", "1", [(ANSWER[0], part.inputs[0] * 2)], Receipt(queue_us, 2, 3, batch_rows, 1, "cpu"))


def test_the_parts_hold_all_rows_once_and_none_more_than_fit(make_job):
    parts = split_of(counted(make_job, 11, priority=3, deadline=7.0), 4).parts
    assert [part.rows for part in parts] == [4, 4, 3]
    assert np.concatenate([part.inputs[0] for part in parts]).ravel().tolist() == list(range(11))
    assert sum(part.nbytes for part in parts) <= 44
    assert {(part.priority, part.deadline, part.rank) for part in parts} == {(3, 7.0, 97.0)}


def test_rows_along_another_axis_are_cut_and_joined_along_it_and_what_is_shared_is_whole(make_job):
    inputs = (replace(COLUMN[0], batch_axis=1), replace(COLUMN[0], name="s", shape=("k",), batch_axis=None))
    x, s = np.arange(14, dtype=np.float32).reshape(2, 7), np.arange(3, dtype=np.float32)
    whole = make_job(7, inputs=(x, s), outputs=(replace(ANSWER[0], batch_axis=1),))
    parts = Split(whole, 3, inputs, Whole()).parts
    assert [part.inputs[0].tolist() for part in parts] == [x[:, :3].tolist(), x[:, 3:6].tolist(), x[:, 6:].tolist()]
    assert all(part.inputs[1] is s for part in parts)
    for part in reversed(parts):
        part.end(Result("m", "1", [(whole.outputs[0], part.inputs[0])], Receipt(0, 0, 0, 1, 1, "cpu")))
    np.testing.assert_array_equal(whole.outcome.outputs[0][1], x)


def test_an_output_that_all_rows_share_is_taken_once_and_counted_once(make_job):
    shared = replace(ANSWER[0], name="z", shape=(3,), batch_axis=None)
    z = np.arange(3, dtype=np.float32)
    whole = counted(make_job, 7)
    whole.outputs = (*ANSWER, shared)
    whole.answered = 2
    for part in split_of(whole, 3, Whole(max_bytes=7 * 4 + z.nbytes)).parts:
        part.end(Result("m", "1", [(ANSWER[0], part.inputs[0]), (shared, z)], Receipt(0, 0, 0, 1, 1, "cpu")))
    (_, y), (spec, once) = whole.outcome.outputs
    assert y.ravel().tolist() == [*range(7)]
    assert (spec, once.tolist()) == (shared, z.tolist())


def test_the_results_are_joined_in_order_whichever_comes_first(make_job):
    whole = counted(make_job, 11)
    split = split_of(whole, 4)
    for part in (split.parts[2], split.parts[0]):
        part.end(result(part))
        assert not whole.outcomes
    split.parts[1].end(result(split.parts[1]))
    assert whole.outcome.outputs[0][1].ravel().tolist() == [2 * i for i in range(11)]


def test_the_receipt_tells_the_longest_waits_the_sum_of_the_runs_and_the_largest_batch(make_job):
    whole = counted(make_job, 3)
    split = split_of(whole, 1)
    for i, part in enumerate(split.parts):
        part.end(result(part, queue_us=10**i, batch_rows=[2, 9, 4][i]))
    assert whole.outcome.receipt == Receipt(100, 2, 9, 9, 1, "cpu")


def test_the_first_part_that_fails_ends_the_whole_and_the_other_parts(make_job):
    whole = counted(make_job, 4)
    split = split_of(whole, 1)
    split.parts[0].end(result(split.parts[0]))
    split.parts[2].end(ModelRunFailed("no"))
    assert isinstance(whole.outcome, ModelRunFailed)
    assert all(part.has_ended for part in split.parts)
    split.parts[3].end(result(split.parts[3]))
    assert isinstance(whole.outcome, ModelRunFailed)


def test_parts_that_are_too_large_together_are_not_joined(make_job):
    whole = counted(make_job, 4)
    for part in split_of(whole, 2, Whole(max_bytes=12)).parts:
        part.end(Result("m", "1", [(ANSWER[0], np.zeros((2, 1), np.float32))], Receipt(0, 0, 0, 1, 1, "cpu")))
    assert isinstance(whole.outcome, ResponseTooLarge)


def test_answers_that_cannot_be_joined_have_the_whole_run_in_one_run(make_job):
    whole, model = counted(make_job, 4), Whole()
    for i, part in enumerate(split_of(whole, 2, model).parts):
        wide = np.zeros((part.rows, 1 + i), np.float32)
        part.end(Result("m", "1", [(ANSWER[0], wide)], Receipt(0, 0, 0, 1, 1, "cpu")))
    assert not whole.has_ended
    ((job, fault),) = model.ran
    assert job is whole
    assert "dimension" in fault


def test_answers_of_rows_that_turned_out_to_depend_on_each_other_are_not_joined(make_job):
    whole, model = counted(make_job, 4), Whole(joins=False)
    for part in split_of(whole, 2, model).parts:
        part.end(result(part))
    assert not whole.has_ended
    assert model.ran == [(whole, "")]


def test_cancelling_the_whole_takes_every_part_out_of_queue_and_batch(make_job, clock):
    batcher = Batcher(BatchPolicy(enabled=True, max_rows=2), make_services(clock))
    whole = counted(make_job, 6)
    split = split_of(whole, 2)
    for part in split.parts:
        batcher.submit(part)
    batch, stopped = batcher.take(Slot()), []
    batch.arm(lambda: stopped.append(True))
    whole.cancel()
    assert isinstance(whole.outcome, Cancelled)
    load = batcher.load()
    assert (load.queued_jobs, load.queued_rows, load.queued_bytes, load.running_jobs) == (0, 0, 0, 0)
    assert stopped == [True]


def test_a_deadline_that_passes_ends_the_whole_once(make_job, clock):
    batcher = Batcher(BatchPolicy(enabled=True, max_rows=2), make_services(clock))
    whole = counted(make_job, 6, deadline=101.0)
    for part in split_of(whole, 2).parts:
        batcher.submit(part)
    batcher.expire(101.0)
    assert isinstance(whole.outcome, DeadlineExceeded)
    assert batcher.load().queued_jobs == 0


class Doubling:
    """A session that doubles its rows and keeps what it was given."""

    def __init__(self):
        self.runs = []

    def run(self, feeds, outputs, handle=None):
        self.runs.append(feeds["x"].ravel().tolist())
        return [feeds["x"] * 2]


class Waiting:
    """An engine with a model that no executor serves yet: what is submitted waits."""

    def __init__(self, clock, **policy):
        self.session = Doubling()
        spec = ModelSpec(
            name="m",
            version="1",
            inputs=COLUMN,
            outputs=ANSWER,
            batching=BatchPolicy(**{"enabled": True} | policy),
            requested_providers=("cpu",),
            providers=("cpu",),
        )
        self.engine = make_engine(clock)
        self.model = ServedModel(spec, self.session, self.engine.services)
        self.engine.table.add(self.model)
        self.outcomes = []

    def submit(self, rows, deadline=math.inf):
        column = np.arange(rows, dtype="<f4")
        tensor = WireTensor("x", DataType.DATA_TYPE_FLOAT, (rows, 1), column.tobytes(), ())
        return self.engine.submit(Request("m", "", [tensor], deadline=deadline), self.outcomes.append)

    def serve_what_waits(self):
        self.model.start()
        self.engine.flush()
        self.model.stop()


@pytest.fixture
def waiting(clock):
    return lambda **policy: Waiting(clock, **policy)


def test_a_queue_that_is_full_in_the_middle_of_the_parts_leaves_nothing_behind(waiting):
    server = waiting(max_rows=2, max_queue_rows=9)
    server.submit(5)
    with pytest.raises(QueueFull):
        server.submit(6)
    load = server.model.load()
    assert (load.queued_jobs, load.queued_rows, load.queued_bytes) == (3, 5, 20)
    server.submit(4)
    server.serve_what_waits()
    answers = [outcome.outputs[0][1].ravel().tolist() for outcome in server.outcomes]
    assert answers == [[0, 2, 4, 6, 8], [0, 2, 4, 6]]
    assert server.session.runs == [[0, 1], [2, 3], [4], [0, 1], [2, 3]]


def test_a_part_that_could_not_be_done_in_time_refuses_the_whole(waiting):
    server = waiting(max_rows=1)
    server.model._batcher.finished(Batch([], 0, Slot()), 1.0)
    with pytest.raises(DeadlineExceeded):
        server.submit(4, deadline=103.0)
    assert server.model.load().queued_jobs == 0
    assert server.outcomes == []
    server.submit(4, deadline=104.75)  # the wait of three seconds counts a quarter more
    assert server.model.load().queued_jobs == 4


def test_exactly_max_rows_are_not_split(waiting):
    server = waiting(max_rows=4)
    server.submit(4)
    assert server.model.load().queued_jobs == 1
    server.submit(5)
    assert server.model.load().queued_jobs == 3
