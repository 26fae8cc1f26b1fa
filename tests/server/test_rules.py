"""Rules of a model: what a kernel would die of is refused, and no more than that."""

from dataclasses import replace

import numpy as np
import pytest

from onnxserve.tensor import DataType, encode
from onnxserve_server.core import Request, WireTensor
from onnxserve_server.engine.admission import Admission
from onnxserve_server.errors import InvalidRequest
from onnxserve_server.spec import BatchPolicy, Condition, InputRule, ModelSpec, TensorSpec

MIN = -(2**63)


def spec_of(*rules, batched=False, shape=("batch", "time")):
    inputs = tuple(TensorSpec(name=name, data_type=DataType.DATA_TYPE_INT64, shape=shape) for name in "xy")
    return ModelSpec(
        name="m",
        version="1",
        inputs=inputs,
        outputs=(replace(inputs[0], name="z"),),
        batching=BatchPolicy(enabled=batched),
        requested_providers=(),
        providers=("CPU",),
        rules=tuple(InputRule(tuple(Condition(*each) for each in rule), "it died") for rule in rules),
    )


def faults(spec, **arrays):
    """The violations of a request, [(field, description), ...]."""
    tensors = []
    for name, value in arrays.items():
        message = encode(name, np.asarray(value, np.int64))
        tensors.append(WireTensor(name, message.data_type, tuple(message.shape), message.data, ()))
    try:
        Admission(spec).admit(Request("m", "1", tensors), 0.0, lambda _: None)
    except InvalidRequest as error:
        return [tuple(violation) for violation in error.violations]
    return []


def test_a_size_is_refused_and_others_are_not():
    spec = spec_of([("x", 1, 0), ("y", 1, 0)])
    assert not faults(spec, x=[[1]], y=[[1]])
    ((field, text),) = faults(spec, x=np.zeros((1, 0)), y=np.zeros((1, 0)))
    assert field == "inputs[1].shape"
    assert text == (
        "axis 1 of input 'x' has the size 0 and axis 1 of input 'y' has the size 0, which the model does not survive: "
        "it died; send at least one element along it"
    )


def test_values_are_refused_only_together():
    spec = spec_of([("x", None, MIN), ("y", None, -1)])
    assert not faults(spec, x=[[MIN, 5]], y=[[2, 3]])
    assert not faults(spec, x=[[5, 5]], y=[[-1, 3]])
    ((_, text),) = faults(spec, x=[[MIN, 5]], y=[[-1, 3]])
    assert text.startswith(f"an element of input 'x' is {MIN} and an element of input 'y' is -1, which")
    assert text.endswith("; send other values")


def test_the_path_is_that_of_the_request_in_whatever_order():
    ((field, _),) = faults(spec_of([("x", None, 7)]), y=[[1]], x=[[7]])
    assert field == "inputs[1].data"


@pytest.mark.parametrize(("value", "refused"), [(0, True), (7, False)])
def test_a_request_without_rows_is_one_of_zeros(value, refused):
    spec = spec_of([("x", None, value)], batched=True)
    assert bool(faults(spec, x=np.zeros((0, 2)), y=np.zeros((0, 2)))) is refused
