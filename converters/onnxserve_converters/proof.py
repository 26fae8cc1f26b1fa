"""The proof: ONNX Runtime must give what the framework gives, at sizes that the model was not exported with."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters.errors import BadRequest, NotProved, one_line
from onnxserve_converters.graph import Axes
from onnxserve_converters.inputs import Case
from onnxserve_converters.sources.base import Model

_ABSOLUTE_SHARE = 1e-2  # an error below this share of the tolerance is rounding, however small the output is


@dataclass(frozen=True, slots=True)
class Reference:
    """A case, and what the framework answers to it."""

    case: Case
    outputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Parity:
    """How far one output of one case is from the reference.

    Attributes:
        sizes: of the free axes, by name.
        error: the largest absolute difference; for dtypes without fractions the number of elements that differ.
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
        """Return it for a report; an error of None is infinite, which JSON cannot say."""
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
        BadRequest: it does not run at a size, gives nothing or no finite number, or `names` do not fit its outputs.
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
                f"the model itself does not run with {case}: {one_line(error)}; describe its inputs with --input, "
                "sizes that it takes with --size axis=size,size and values with --range input=low:high"
            ) from error
        if not outputs:
            raise BadRequest("the model itself gives no output")
        if names and len(names) != len(outputs):
            raise BadRequest(
                f"--output: {len(names)} names for {len(outputs)} outputs; the model's own are {', '.join(outputs)}"
            )
        named = dict(zip(names or outputs, outputs.values(), strict=True))
        for name, array in named.items():
            if array.dtype.kind == "f" and array.size and not np.isfinite(array).any():
                raise BadRequest(
                    f"output {name}: the model itself gives no finite number with {case}, so there is nothing to "
                    "compare; give values that it is made for with --samples or --range"
                )
        references.append(Reference(case, named))
    return references


def observed_axes(references: Sequence[Reference]) -> Axes:
    """Return what each axis of each output is: fixed, as long as a free axis of the inputs, or free on its own.

    Raises:
        BadRequest: an output has not always as many axes.
    """
    axes = {}
    for name in references[0].outputs:
        shapes = [reference.outputs[name].shape for reference in references]
        if len({len(shape) for shape in shapes}) > 1:
            raise BadRequest(f"output {name}: it has not the same number of axes at all sizes, which ONNX cannot tell")
        axes[name] = tuple(
            _axis([shape[i] for shape in shapes], references, f"{name}_{i}") for i in range(len(shapes[0]))
        )
    return axes


def prove(
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    references: Sequence[Reference],
    tolerances: Mapping[str, float],
    max_error: float | None = None,
) -> list[Parity]:
    """Run every case and compare every output.

    Args:
        run: the ONNX file, in ONNX Runtime.
        references: what the framework answers.
        tolerances: the largest error by dtype, as a share of the output's largest magnitude.
        max_error: one share that holds for all floats in their place, for graphs that round on purpose.

    Raises:
        NotProved: a case does not run, or an output has another shape or dtype, or is too far off. All cases are run
            before, and the error's report has a row for each.
    """
    rows, faults = [], []
    for reference in references:
        case = reference.case
        try:
            outputs = run(case.feeds)
        except Exception as error:  # ONNX Runtime has a class of its own for each of a dozen status codes
            faults.append(_frozen(case, references, one_line(error)))
            continue
        for name, wanted in reference.outputs.items():
            got = outputs[name]
            if got.dtype != wanted.dtype or got.shape != wanted.shape:
                faults.append(
                    f"output {name} with {case}: it is {got.dtype}{list(got.shape)}, and the framework gives "
                    f"{wanted.dtype}{list(wanted.shape)}"
                )
                continue
            row = compare(name, case.sizes, got, wanted, tolerances=tolerances, max_error=max_error)
            rows.append(row)
            if not row.passes:
                faults.append(
                    f"output {name} with {case}: "
                    + (
                        f"it is off by {row.error:.2g}, and {row.allowed:.2g} is allowed"
                        if math.isfinite(row.error)
                        else "it is NaN or infinite elsewhere than the framework's"
                    )
                )
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise NotProved(
            f"the ONNX file does not do what the model does: {faults[0]}{more}",
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
    """Compare one output with the reference, which has its shape and dtype."""
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
            raise BadRequest(f"--output {name}: another {'input' if name in inputs else 'output'} has that name")


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _axis(sizes: list[int], references: Sequence[Reference], own_name: str) -> int | str:
    for axis in references[0].case.sizes:
        told = [reference.case.sizes[axis] for reference in references]
        if sizes == told and len(set(told)) > 1:
            return axis
    return sizes[0] if len(set(sizes)) == 1 else own_name


def _frozen(case: Case, references: Sequence[Reference], why: str) -> str:
    axes = [axis for axis in case.sizes if len({reference.case.sizes[axis] for reference in references}) > 1]
    told = f" (an axis that was frozen by the export? {', '.join(axes)} should be free)" if axes else ""
    return f"with {case} it does not run{told}: {why}"
