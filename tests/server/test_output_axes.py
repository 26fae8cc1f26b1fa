"""Outputs whose batch axis has another name than that of the inputs."""

import pytest

from onnxserve.tensor import DataType
from onnxserve_server.runtime.verdict import fault_of_output_axes
from onnxserve_server.spec import TensorSpec


def specs(*names):
    return tuple(
        TensorSpec(name=f"t{i}", data_type=DataType.DATA_TYPE_FLOAT, shape=(name, 4)) for i, name in enumerate(names)
    )


@pytest.mark.parametrize(("inputs", "outputs"), [(("N",), ("K",)), (("batch", "batch"), ("batch", "boxes"))])
def test_another_name_is_a_fault_that_names_the_output_and_the_cure(inputs, outputs):
    fault = fault_of_output_axes(specs(*inputs), specs(*outputs))
    assert f"of output t{len(outputs) - 1} is named {outputs[-1]!r}, that of the inputs {inputs[0]!r}" in fault
    assert "batching.enabled: true" in fault


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (("N",), ("N", "N")),
        (("N",), ("",)),
        (("",), ("K",)),
        (("unk__1",), ("unk__2",)),
        (("batch",), ("Addy_dim_0",)),
        (("s0",), ("s1",)),
    ],
)
def test_equal_names_and_those_that_exporters_make_up_are_none(inputs, outputs):
    assert fault_of_output_axes(specs(*inputs), specs(*outputs)) == ""
