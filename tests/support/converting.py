"""Whole conversions for tests, from a file to a repository, and comparisons of arrays."""

from pathlib import Path

import numpy as np

from onnxserve_converters.conversion import run
from onnxserve_converters.inputs import parse_input
from onnxserve_converters.inspection import inspect
from onnxserve_converters.request import Request


def request(source, *inputs, **asked):
    """A request for a source, with inputs described as on the command line."""
    return Request(source=Path(source), inputs=tuple(map(parse_input, inputs)), **asked)


def convert(source, to, *inputs, replace=False, limits=None, progress=lambda stage: None, **asked):
    """Convert in a worker process and publish as the next version of `to`."""
    return run(request(source, *inputs, **asked), to, replace=replace, limits=limits, progress=progress)


def only_step(done):
    """The report's entry of a conversion's one optimization step."""
    (step,) = done.report["shrinking"]
    return step


def operators(done):
    """The number of nodes by operator in a published file."""
    return inspect(done.path)["operators"]


def same(got, wanted, tolerance=1e-4):
    """Whether arrays are equal in dtype and shape, and floats in value but for rounding."""
    if got.dtype != wanted.dtype or got.shape != wanted.shape:
        return False
    if wanted.dtype.kind != "f":
        return np.array_equal(got, wanted)
    return np.allclose(got, wanted, rtol=tolerance, atol=tolerance)
