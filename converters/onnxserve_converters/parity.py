"""Compares ONNX Runtime with the framework, at sizes that the model was not exported with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters.cases import Case
from onnxserve_converters.comparison import Parity, Places, compare, without
from onnxserve_converters.errors import BadRequest, NotProved, one_line
from onnxserve_converters.graph import Axes
from onnxserve_converters.sources.base import Model


@dataclass(frozen=True, slots=True)
class Reference:
    """A case and the framework's outputs for it.

    Attributes:
        case: the inputs.
        outputs: by name.
        unread: by row and place, where nobody reads the outputs: what a causal model answers before the first valid
            place of a row that is padded at its start, with nothing to look at. None: all are read.
    """

    case: Case
    outputs: Mapping[str, Array]
    unread: Places | None = None


def run_reference(
    model: Model,
    cases: Iterable[Case],
    names: Sequence[str],
    unread: Callable[[Mapping[str, Array]], Places | None] = lambda _: None,
) -> list[Reference]:
    """Run the model in its framework on every case.

    Args:
        model: the model.
        cases: the inputs.
        names: new names of its outputs, in their order; none: its own.
        unread: finds, for a case's inputs, Reference.unread.

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
        references.append(Reference(case, named, unread(case.feeds)))
    return references


def check_repeats(model: Model, references: Sequence[Reference], tolerances: Mapping[str, float]) -> None:
    """Run the model once more on some cases, and check that it answers as before.

    Raises:
        BadRequest: it does not, so nothing can be compared with it.
    """
    for reference in references:
        again = model.run(reference.case.feeds)
        for (name, wanted), got in zip(reference.outputs.items(), again.values(), strict=True):
            row = None
            if got.dtype == wanted.dtype and got.shape == wanted.shape:
                row = compare(name, reference.case.sizes, got, wanted, tolerances=tolerances)
            if row is None or not row.passes:
                difference = "another shape" if row is None else f"{row}"
                raise BadRequest(
                    f"output {name}: the model is random at inference, or keeps something from call to call: run twice "
                    f"on the same rows, with {reference.case}, it differs from itself ({difference}); call eval() on "
                    "all its modules, make Keras layers obey training=False, and leave dropout, noise and sampling out "
                    "of what is converted"
                )


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
    batch: str | None = None,
) -> list[Parity]:
    """Run the ONNX file on every case and compare every output.

    Args:
        run: the ONNX file, in ONNX Runtime.
        references: the framework's outputs.
        tolerances: the largest error by dtype, as a share of the output's largest magnitude.
        max_error: one share for all floats in their place, for graphs that round on purpose.
        batch: the name of the batch axis, so that messages name rows; None where there is none.

    Raises:
        NotProved: a case fails, or an output has another shape or dtype, or too large an error. It is raised after all
            cases have run, and its report has a row for each.
    """
    rows, faults = [], []
    axes = observed_axes(references) if references else {}
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
            row_axis = axes[name].index(batch) if batch in axes[name] else None
            compared = partial(
                compare, name, case.sizes, wanted=wanted, tolerances=tolerances, max_error=max_error, row_axis=row_axis
            )
            row = compared(got)
            if not row.passes and reference.unread is not None:
                read = without(reference.unread, got, wanted)
                row = row if read is None else replace(compared(read), unread=row.error)
            rows.append(row)
            if not row.passes:
                faults.append(f"output {name} with {case}: {row}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise NotProved(
            f"the ONNX file does not match the model: {faults[0]}{more}",
            {"parity": [row.to_dict() for row in rows], "faults": faults},
        )
    return rows


def _check_names(names: Sequence[str], inputs: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1 or name in inputs:
            raise BadRequest(
                f"--output {name}: already the name of another {'input' if name in inputs else 'output'}; choose a "
                "different name"
            )


def _axis(sizes: list[int], references: Sequence[Reference], own_name: str) -> int | str:
    for axis in references[0].case.sizes:
        tried = [reference.case.sizes[axis] for reference in references]
        if sizes == tried and len(set(tried)) > 1:
            return axis
    return sizes[0] if len(set(sizes)) == 1 else own_name


def _run_fault(case: Case, references: Sequence[Reference], error: str) -> str:
    axes = [axis for axis in case.sizes if len({reference.case.sizes[axis] for reference in references}) > 1]
    hint = f" (did the export fix an axis? {', '.join(axes)} should be free)" if axes else ""
    return f"ONNX Runtime fails with {case}{hint}: {error}"
