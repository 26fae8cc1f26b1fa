"""A batcher, jobs of one column, and sessions that a test can look into, without ONNX Runtime."""

from onnxserve.tensor import DataType
from onnxserve_server.runtime.failures import RunFailed
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


def counts(batcher):
    load = batcher.load()
    return load.queued_jobs, load.queued_rows, load.queued_bytes, load.running_jobs


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
