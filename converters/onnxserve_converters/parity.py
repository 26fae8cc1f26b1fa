"""Compares ONNX Runtime with the framework, at sizes that the model was not exported with."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters.cases import Case
from onnxserve_converters.errors import BadRequest, NotProved, one_line
from onnxserve_converters.graph import Axes
from onnxserve_converters.sources.base import Model

_ABSOLUTE_SHARE = 1e-2  # of the tolerance: an error below it is rounding, however small the output is


@dataclass(frozen=True, slots=True)
class Reference:
    """A case and the framework's outputs for it."""

    case: Case
    outputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Parity:
    """The difference between one output of one case and the reference.

    Attributes:
        sizes: of the free axes, by name.
        error: the largest absolute difference; for dtypes other than floats the number of elements that differ.
        relative: the error as a share of the reference's largest magnitude.
        allowed: the largest error that passes.
    """

    sizes: Mapping[str, int]
    output: str
    error: float
    relative: float
    allowed: float

    @property
    def passes(self) -> bool:
        """Whether the error is allowed."""
        return self.error <= self.allowed

    def to_dict(self) -> dict[str, Any]:
        """Return the row for a report; an error of None is infinite, which JSON cannot express."""
        return {
            "sizes": dict(self.sizes),
            "output": self.output,
            "error": _finite(self.error),
            "relative": _finite(self.relative),
            "allowed": self.allowed,
            "passes": self.passes,
        }


def run_reference(model: Model, cases: Iterable[Case], names: Sequence[str]) -> list[Reference]:
    """Run the model in its framework on every case; `names` rename its outputs.

    Raises:
        BadRequest: the model fails, returns nothing or no finite number, or `names` do not fit its outputs.
    """
    _check_names(names, [spec.name for spec in model.inputs])
    references = []
    for case in cases:
        try:
            outputs = model.run(case.feeds)
        except BadRequest:
            raise
        except Exception as error:  # the framework's own, of any class
            raise BadRequest(
                f"the model fails in its own framework with {case}: {one_line(error)}; describe its inputs with "
                "--input, the sizes that it accepts with --size axis=size,size and values with --range input=low:high"
            ) from error
        if not outputs:
            raise BadRequest("the model returns no output; convert a model that returns at least one tensor")
        if names and len(names) != len(outputs):
            raise BadRequest(
                f"--output: {len(names)} names for {len(outputs)} outputs; the model's outputs are {', '.join(outputs)}"
            )
        named = dict(zip(names or outputs, outputs.values(), strict=True))
        for name, array in named.items():
            if array.dtype.kind == "f" and array.size and not np.isfinite(array).any():
                raise BadRequest(
                    f"output {name}: the model returns no finite number with {case}; give realistic inputs with "
                    "--samples or --range"
                )
        references.append(Reference(case, named))
    return references


def observed_axes(references: Sequence[Reference]) -> Axes:
    """Return each axis of each output: a fixed size, the free axis of the inputs that it follows, or a name of its own.

    Raises:
        BadRequest: the number of axes of an output varies.
    """
    axes = {}
    for name in references[0].outputs:
        shapes = [reference.outputs[name].shape for reference in references]
        if len({len(shape) for shape in shapes}) > 1:
            raise BadRequest(f"output {name}: its number of axes changes with the sizes, which ONNX cannot express")
        axes[name] = tuple(
            _axis([shape[i] for shape in shapes], references, f"{name}_{i}") for i in range(len(shapes[0]))
        )
    return axes


def check_parity(
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    references: Sequence[Reference],
    tolerances: Mapping[str, float],
    max_error: float | None = None,
) -> list[Parity]:
    """Run the ONNX file on every case and compare every output.

    Args:
        run: the ONNX file, in ONNX Runtime.
        references: the framework's outputs.
        tolerances: the largest error by dtype, as a share of the output's largest magnitude.
        max_error: one share for all floats in their place, for graphs that round on purpose.

    Raises:
        NotProved: a case fails, or an output has another shape or dtype, or too large an error. It is raised after all
            cases have run, and its report has a row for each.
    """
    rows, faults = [], []
    for reference in references:
        case = reference.case
        try:
            outputs = run(case.feeds)
        except Exception as error:  # ONNX Runtime has a class of its own for each of a dozen status codes
            faults.append(_run_fault(case, references, one_line(error)))
            continue
        for name, wanted in reference.outputs.items():
            got = outputs[name]
            if got.dtype != wanted.dtype or got.shape != wanted.shape:
                faults.append(
                    f"output {name} with {case}: got {got.dtype}{list(got.shape)}, expected "
                    f"{wanted.dtype}{list(wanted.shape)}"
                )
                continue
            row = compare(name, case.sizes, got, wanted, tolerances=tolerances, max_error=max_error)
            rows.append(row)
            if not row.passes:
                faults.append(f"output {name} with {case}: {_difference(row)}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise NotProved(
            f"the ONNX file does not match the model: {faults[0]}{more}",
            {"parity": [row.to_dict() for row in rows], "faults": faults},
        )
    return rows


def compare(
    name: str,
    sizes: Mapping[str, int],
    got: Array,
    wanted: Array,
    *,
    tolerances: Mapping[str, float],
    max_error: float | None = None,
) -> Parity:
    """Compare one output with a reference of the same shape and dtype."""
    if wanted.dtype.kind != "f" and wanted.dtype.name != "bfloat16":
        differing = int(np.count_nonzero(got != wanted))
        return Parity(sizes, name, float(differing), differing / max(1, wanted.size), 0.0)
    share = tolerances[wanted.dtype.name] if max_error is None else max_error
    expected, actual = wanted.astype(np.float64), got.astype(np.float64)
    same = np.isfinite(expected) & np.isfinite(actual)
    if not np.array_equal(expected[~same], actual[~same], equal_nan=True):
        return Parity(sizes, name, math.inf, math.inf, 0.0)
    magnitude = float(np.abs(expected[same]).max(initial=0.0))
    error = float(np.abs(expected[same] - actual[same]).max(initial=0.0))
    return Parity(sizes, name, error, error / magnitude if magnitude else error, share * (magnitude + _ABSOLUTE_SHARE))


def _check_names(names: Sequence[str], inputs: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1 or name in inputs:
            raise BadRequest(
                f"--output {name}: already the name of another {'input' if name in inputs else 'output'}; choose a "
                "different name"
            )


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _axis(sizes: list[int], references: Sequence[Reference], own_name: str) -> int | str:
    for axis in references[0].case.sizes:
        tried = [reference.case.sizes[axis] for reference in references]
        if sizes == tried and len(set(tried)) > 1:
            return axis
    return sizes[0] if len(set(sizes)) == 1 else own_name


def _difference(row: Parity) -> str:
    if not math.isfinite(row.error):
        return "NaN or infinite values are in other places than in the framework's output"
    return f"error {row.error:.2g}, allowed {row.allowed:.2g}"


def _run_fault(case: Case, references: Sequence[Reference], error: str) -> str:
    axes = [axis for axis in case.sizes if len({reference.case.sizes[axis] for reference in references}) > 1]
    hint = f" (did the export fix an axis? {', '.join(axes)} should be free)" if axes else ""
    return f"ONNX Runtime fails with {case}{hint}: {error}"
