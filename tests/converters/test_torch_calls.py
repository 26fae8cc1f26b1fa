"""Inputs and outputs of PyTorch models: how they are described, passed to the model and named."""

import numpy as np
import pytest
import torch
from torch.export import Dim

from onnxserve_converters.errors import BadRequest
from support import torch_nets as nets
from support.converting import request as ask
from support.torch_sources import (
    in_memory,
    loaded,
    program,
    program_of_fixed_sizes,
    program_with_free_axes,
    script,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            (),
            r"describe the inputs of forward\(x, y\), .* --input x=float32\[batch,10\] --input y=float32\[batch,10\]$",
        ),
        (("x=float32[batch,4]",), r"forward\(x, y\) cannot be called with x: missing a required argument: 'y'"),
        (
            ("a=float32[batch,4]", "b=float32[batch,4]", "c=float32[batch,4]"),
            r"forward\(x, y\) cannot be called with a, b, c: too many positional arguments",
        ),
        (("x=bfloat16[batch,4]", "y=float32[batch,4]"), r"--input x: .*bfloat16.*float32 or float16"),
    ],
)
@pytest.mark.parametrize("form", [weights, in_memory, script])
def test_inputs_that_forward_does_not_take_are_refused(tmp_path, form, inputs, message):
    with pytest.raises(BadRequest, match=message):
        loaded(form(nets.seeded(nets.Colliding), tmp_path, *inputs))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            ("a=float32[batch,1,8,8]", "b=float32[batch]"),
            r"2 inputs are described, but the program takes 1: image=float32\[",
        ),
        (
            ("image=float64[batch,1,8,8]",),
            r"--input image: does not fit the program, which takes image=float32\[2,1,8,8\]",
        ),
        (("image=float32[3,1,8,8]",), r"--input image: does not fit the program, which takes image=float32\[2,1,8,8\]"),
        (
            ("image=float32[batch,64]",),
            r"--input image: does not fit the program, which takes image=float32\[2,1,8,8\]",
        ),
    ],
)
def test_inputs_that_contradict_a_program_are_refused(tmp_path, inputs, message):
    with pytest.raises(BadRequest, match=message):
        loaded(program(nets.seeded(nets.Convolution), tmp_path, *inputs, arguments=(torch.zeros(2, 1, 8, 8),)))


def test_what_is_said_of_one_input_of_a_program_holds_for_the_axes_of_the_others(tmp_path):
    _, asked, _ = program_with_free_axes(tmp_path)
    model = loaded(ask(asked.source, "padding=bool[rows,9]", trust_code=True))
    assert list(map(str, model.inputs)) == ["tokens=float32[rows,9,8]", "padding=bool[rows,9]"]


def test_a_program_whose_fixed_sizes_are_freed_says_so(tmp_path):
    _, asked, _ = program_of_fixed_sizes(tmp_path)
    assert loaded(asked).notes == [
        "the program was saved with fixed sizes; for other sizes the reference is the program without its guards"
    ]


def test_a_program_that_takes_a_number_is_refused(tmp_path):
    asked = program(nets.Power(), tmp_path, arguments=(torch.zeros(2), 3), dynamic_shapes=(None, Dim.DYNAMIC))
    with pytest.raises(BadRequest, match=r"input exponent: the program takes a number; export it again"):
        loaded(asked)


def test_outputs_are_named_by_the_way_to_them_and_none_is_left_out(tmp_path):
    model = loaded(in_memory(nets.Nested(), tmp_path, "x=float32[batch]"))
    outputs = model.run({"x": np.zeros(2, np.float32)})
    assert {name: float(array[0]) for name, array in outputs.items()} == {
        "a": 1, "b_0": 2, "b_1_0": 3, "b_0_3": 4, "pair_left": 5,
    }  # fmt: skip


def test_an_output_is_a_copy_and_an_input_stays_as_it_was(tmp_path):
    model = loaded(in_memory(nets.InPlace(), tmp_path, "x=float32[batch]"))
    x = np.ones(2, np.float32)
    first, _ = (model.run({"x": x}) for _ in range(2))
    np.testing.assert_array_equal(first["output"], [2, 2])
    np.testing.assert_array_equal(x, [1, 1])


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nets.Number(), r"output output_1: expected a tensor, got int"),
        (nets.Half(), r"output output: bfloat16 cannot be compared"),
        (nets.Nothing(), r"the model returns no tensor"),
    ],
)
def test_outputs_that_no_file_can_have_are_refused(tmp_path, net, message):
    with pytest.raises(BadRequest, match=message):
        loaded(in_memory(net, tmp_path, "x=float32[batch]")).run({"x": np.zeros(2, np.float32)})
