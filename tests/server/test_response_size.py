"""The bound of an answer, before the run where the graph tells and after it."""

import numpy as np
import pytest

from onnxserve.tensor import DataType
from onnxserve_server.errors import ResponseTooLarge
from onnxserve_server.scheduling.batch import Slot
from onnxserve_server.scheduling.response_size import ResponseSize, nbytes_of
from onnxserve_server.scheduling.running import BatchRunner
from onnxserve_server.spec import BatchPolicy, ModelSpec, TensorSpec
from support.batching import ANSWER, Hooked, answer, model_spec, new_batcher, submit, values

FLOAT = DataType.DATA_TYPE_FLOAT


def tensor(name, *shape, data_type=FLOAT):
    return TensorSpec(name=name, data_type=data_type, shape=shape)


def size_of(inputs, outputs, limit, enabled=True):
    spec = ModelSpec(
        name="m",
        version="1",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        batching=BatchPolicy(enabled=enabled),
        requested_providers=(),
        providers=(),
    )
    return ResponseSize(spec, limit), spec.outputs


def test_rows_of_a_fixed_size_are_known_before_the_run():
    size, outputs = size_of([tensor("x", "b", 1)], [tensor("y", "b", 100), tensor("z", "b", 20)], 4800)
    x = np.zeros((10, 1), np.float32)
    size.check_before(outputs, (x,), 10)
    with pytest.raises(ResponseTooLarge, match=r"5280 bytes, 4400 of them in output 'y' of the shape \[11, 100\]"):
        size.check_before(outputs, (x,), 11)
    size.check_before(outputs[1:], (x,), 11)


def test_axes_named_in_an_input_are_known_before_the_run():
    size, outputs = size_of([tensor("x", "b", "n")], [tensor("y", "b", "n", "n")], 400, enabled=False)
    size.check_before(outputs, (np.zeros((1, 10), np.float32),), 1)
    with pytest.raises(ResponseTooLarge) as error:
        size.check_before(outputs, (np.zeros((2, 10), np.float32),), 1)
    assert error.value.metadata | {"model": "", "version": ""} == {
        "max_response_bytes": "400",
        "response_bytes": "800",
        "output": "y",
        "model": "",
        "version": "",
    }
    assert "max_response_bytes" in error.value.message


def test_other_axes_and_strings_are_known_after_the_run_alone():
    strings = tensor("s", "b", data_type=DataType.DATA_TYPE_STRING)
    size, outputs = size_of([tensor("x", "b", "n")], [tensor("y", "b", "k"), strings], 100)
    size.check_before(outputs, (np.zeros((1000, 10), np.float32),), 1000)
    y, text = np.zeros((5, 5), np.float32), np.array(["é" * 50, "a" * 51], object)
    assert size.fault([(outputs[0], y)]) is None
    assert size.fits([y])
    assert "output 's'" in size.fault([(outputs[1], text)]).message
    assert nbytes_of(text) == 101


def test_only_the_job_whose_answer_is_too_large_is_refused(clock, make_job):
    batcher = new_batcher(clock)
    small, large = submit(batcher, make_job(2, value=1, outputs=ANSWER), make_job(3, value=2, outputs=ANSWER))
    size = ResponseSize(model_spec(), 8)
    BatchRunner(model_spec(), Hooked(), batcher, clock, response_size=size).run(batcher.take(Slot())).scatter()
    assert answer(small) == [2, 2]
    assert isinstance(large.outcome, ResponseTooLarge)


def test_what_the_server_keeps_for_itself_does_not_count(clock, make_job):
    batcher = new_batcher(clock)
    (job,) = submit(batcher, *values(make_job, 1, rows=3, answered=0))
    size = ResponseSize(model_spec(), 8)
    BatchRunner(model_spec(), Hooked(), batcher, clock, response_size=size).run(batcher.take(Slot())).scatter()
    assert answer(job) == [2, 2, 2]
