"""Whether requests may share the runs of a model, and what its declared shapes say of that."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxserve_server.spec import Rows, RowVerdict, TensorSpec

_UNKNOWN = RowVerdict()
_ONE_NAME = " (if the rows of all inputs belong together, export it with one name for these axes)"
_MADE_UP = re.compile(r"unk__\d+|(p2o\.)?DynamicDimension\.\d+")  # by tf2onnx and Paddle, one for each free axis
_OF_AN_OUTPUT = re.compile(r".*_dim_\d+|[su]\d+")  # by torch, where it does not see that an axis is that of an input


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether requests may share runs; if not, `reason` is a sentence that says why.

    `rows`: what is known of the rows, from the graph and from trying; `analysed`: from the graph alone; `shared`: the
    outputs that are the same for all rows, by name, as the graph shows; `tolerance`: of a dependence, the
    batching.tolerance that allows it, infinity if none does.
    """

    batchable: bool
    reason: str = ""
    rows: RowVerdict = _UNKNOWN
    analysed: RowVerdict = _UNKNOWN
    shared: tuple[str, ...] = ()
    tolerance: float = math.inf

    def beside(self, analysed: RowVerdict) -> "Verdict":
        """Return what trying has shown, beside what the graph shows."""
        if self.rows.rows is not Rows.DEPENDENT:
            return replace(self, rows=analysed, analysed=analysed)
        where = f" (they meet at node {analysed.node})" if analysed.rows is Rows.MEET else ""
        reason = self.reason + where
        rows = RowVerdict(Rows.DEPENDENT, reason, analysed.node)
        return replace(self, reason=reason, rows=rows, analysed=analysed)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Verdict":
        """Return the verdict that dataclasses.asdict() made `fields` of, by way of JSON."""
        rows, analysed = (
            RowVerdict(Rows(fields[name]["rows"]), fields[name]["reason"], fields[name]["node"])
            for name in ("rows", "analysed")
        )
        return cls(fields["batchable"], fields["reason"], rows, analysed, tuple(fields["shared"]), fields["tolerance"])


def check_batch_axes(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Verdict:
    """Judge by the declared shapes alone: the batch axes of all inputs and outputs but shared ones must be free.

    Those of the inputs must have one name, too.
    """
    if not inputs:
        return Verdict(False, "it has no inputs")
    with_rows = [spec for spec in inputs if spec.batch_axis is not None]
    names = {_given(size) for spec in with_rows if not spec.any_shape and isinstance(size := _batch_size(spec), str)}
    for kind, specs in (("input", with_rows), ("output", [spec for spec in outputs if _needs_rows(spec)])):
        for spec in specs:
            if reason := _fault_of(kind, spec):
                return Verdict(False, reason + _cure(kind, spec, names))
    if len(names) > 1:
        different = ", ".join(sorted(map(repr, names)))
        return Verdict(False, f"the batch axes of its inputs have different names: {different}{_ONE_NAME}")
    return Verdict(True)


def fault_of_output_axes(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> str:
    """Return which output has another name for its batch axis than the inputs have, as a sentence; "" for none.

    Whoever named them so says that the output may have another number of rows; names that exporters make up do not.
    """
    names = {_batch_size(spec) for spec in inputs if spec.batch_axis is not None}
    for spec in filter(_needs_rows, outputs):
        size = _batch_size(spec)
        if size not in names and all(map(_says_something, {size, *names})):
            expected = ", ".join(sorted(repr(name) for name in names))
            return (
                f"the batch axis of output {spec.name} is named {size!r}, that of the inputs {expected}: it may have "
                "another number of rows; give both one name, or set `batching.enabled: true` if it never has"
            )
    return ""


def fault_of_defaults(optional: tuple[TensorSpec, ...]) -> str:
    """Return why trying a model shows nothing of its rows if it has inputs with a default, as a sentence; "" if not."""
    if not optional:
        return ""
    return (
        f"it was tried with the default of input {optional[0].name} alone, and its rows may depend on each other with "
        "another value; make that a constant, or set `batching.enabled: true` if they never do"
    )


def _says_something(name: int | str | None) -> bool:
    """Whether the size of an axis is a name that relates it to other axes."""
    return isinstance(name, str) and bool(_given(name)) and not _OF_AN_OUTPUT.fullmatch(name)


def _needs_rows(output: TensorSpec) -> bool:
    """Whether an output is not shared. One of unknown shape is not, even if nothing says where its rows lie."""
    return output.any_shape or output.batch_axis is not None


def _fault_of(kind: str, spec: TensorSpec) -> str:
    if spec.any_shape and kind == "input":
        return f"the model declares no shape for input {spec.name}; export it with one"
    size = _batch_size(spec)
    if spec.any_shape and size is None:
        return f"the model declares no shape for output {spec.name}{cure_by_axis(spec.name, 0)}"
    if size is None:
        return f"{kind} {spec.name} is a scalar: it has no batch axis"
    return f"the first axis of {kind} {spec.name} has the fixed size {size}" if isinstance(size, int) else ""


def _given(name: str) -> str:
    """Return the name of an axis; "" for one that a converter has made up, which says nothing of other axes."""
    return "" if _MADE_UP.fullmatch(name) else name


def _batch_size(spec: TensorSpec) -> int | str | None:
    """Return the size or name of the batch axis; None for a scalar."""
    if spec.any_shape and spec.batch_axis is not None:  # as the configuration says
        return ""
    return spec.shape[spec.batch_axis or 0] if spec.shape else None


def _cure(kind: str, spec: TensorSpec, names: set[str]) -> str:
    """Return, in brackets, how a tensor without a free first axis could be configured; "" if there is no way.

    `names` are those of the batch axes of the model's inputs; without any there would be nothing to batch.
    """
    settings = []
    if (axis := next((axis for axis, size in enumerate(spec.shape) if size in names), None)) is not None:
        settings.append(_along(spec.name, axis))
    if kind == "input" and names:
        settings.append(f"`shared: [{spec.name}]` if it is the same for all rows")
    return _advice(settings) if settings else ""


def cure_by_axis(name: str, axis: int) -> str:
    """Return, in brackets, how a tensor is configured whose rows lie along `axis`."""
    return _advice([_along(name, axis)])


def cure_by_axes(axes: Mapping[str, int]) -> str:
    """Return, in brackets, how a model is configured whose rows are proved to be independent along these axes."""
    listed = ", ".join(f"{name}: {axis}" for name, axis in axes.items())
    return _advice([f"`batch_axis: {{{listed}}}` if its rows lie there: along these axes they are proved independent"])


def _along(name: str, axis: int) -> str:
    return f"`batch_axis: {{{name}: {axis}}}` if its rows lie along axis {axis}"


def _advice(settings: list[str]) -> str:
    return f" (in its configuration set {' or '.join(settings)})"
