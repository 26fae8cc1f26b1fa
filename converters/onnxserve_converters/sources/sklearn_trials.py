"""Finds the inputs and the operator set with which an estimator's graph is equal to it, on rows drawn from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import onnx
import onnxruntime

from onnxserve.tensor import Array
from onnxserve_converters.cases import Cases
from onnxserve_converters.comparison import compare
from onnxserve_converters.errors import ConverterError, ExportFailed, NotProved, one_line
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.request import Request
from onnxserve_converters.sources.sklearn_export import flatten
from onnxserve_converters.sources.sklearn_rows import FittedRows

_ROWS = 1024
_ROWS_UNKNOWN = 64  # where nothing tells what rows look like
_CURE = "train it with estimators and options that https://onnx.ai/sklearn-onnx/supported.html lists"
_OPSETS = (18, 15)  # tried where the newest cannot be exported


class Candidate(Protocol):
    """An estimator with one choice of inputs."""

    inputs: tuple[InputSpec, ...]

    @property
    def fitted(self) -> FittedRows | None:
        """What is known of its rows."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the framework's outputs."""
        ...

    def graph(self, opset: int | None) -> onnx.ModelProto:
        """Return the exporter's graph; raises what the exporter raises."""
        ...


@dataclass(frozen=True)
class Found:
    """The result of all trials.

    Attributes:
        candidate: the one that was equal, or else the first.
        graph: None if none was equal.
        error: why none was equal; None if one was.
        notes: what was tried, a sentence each.
    """

    candidate: Candidate
    graph: onnx.ModelProto | None
    error: ConverterError | None
    notes: list[str]


def find(candidates: Sequence[Candidate], request: Request) -> Found:
    """Return the first candidate whose graph is equal to the framework, and what was tried before it.

    With samples it is the first that can be exported: the comparison rests on them alone.

    Args:
        candidates: the same estimator with other inputs, the best first.
        request: its ranges, tolerances and opset.
    """
    notes: list[str] = []
    errors: list[ConverterError] = []
    rounds: Found | None = None
    for candidate in candidates:
        dtypes = "/".join(dict.fromkeys(spec.dtype for spec in candidate.inputs))
        try:
            graph = _first_exported(candidate, request.opset)
            if request.samples or request.calibration:
                return Found(candidate, graph, None, notes)
            _check(candidate, graph, request)
        except ConverterError as error:
            errors.append(error)
            notes.append(f"tried with {dtypes} inputs: {error}")
            continue
        single = any(spec.dtype == "float32" for spec in candidate.inputs)
        if single and (why := _rounding(candidate, edges=False)) and not request.inputs:
            notes.append(f"tried with {dtypes} inputs: {why}")
            rounds = Found(candidate, graph, None, [why])
            continue
        if single and (why := _rounding(candidate, edges=True)):
            notes.append(why)
        return Found(candidate, graph, None, notes)
    return rounds or Found(candidates[0], None, errors[0], notes[1:])


def _first_exported(candidate: Candidate, opset: int | None) -> onnx.ModelProto:
    """Return the graph with the asked operator set, or the newest that can be exported."""
    failed: Exception | None = None
    for each in (opset,) if opset else (None, *_OPSETS):
        try:
            return candidate.graph(each)
        except Exception as error:  # skl2onnx raises RuntimeError, NameError and many others
            failed = failed or error
    reason = one_line(failed or ValueError(), 1).split(". ")[0].rstrip(".")
    raise ExportFailed(f"skl2onnx could not export the model: {reason}; {_CURE}") from failed


def _check(candidate: Candidate, graph: onnx.ModelProto, request: Request) -> None:
    """Compare a graph with the framework; an output with axes too many loses them.

    Raises:
        NotProved: they differ.
    """
    count = _ROWS if candidate.fitted is not None else _ROWS_UNKNOWN
    feeds = Cases(candidate.inputs, {}, request.ranges, None, candidate.fitted).rows(count).feeds
    try:
        wanted = candidate.run(feeds)
    except Exception:  # the framework's: the comparison that follows tells it
        return
    got = _ran(graph, feeds)
    for i, (one, other) in enumerate(zip(got, wanted.values(), strict=True)):
        if one.shape != other.shape == (one.size,):
            flatten(graph, i)
            got[i] = one.ravel()
    if why := "; ".join(_differences(wanted, got, request.tolerances)):
        raise NotProved(f"the ONNX file does not match the model: {why}; --samples compares on rows of yours instead")


def _ran(graph: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
        return [np.asarray(output) for output in session.run(None, dict(feeds))]
    except Exception as error:  # ONNX Runtime has a class of its own for each of a dozen status codes
        raise NotProved(f"ONNX Runtime cannot run the exported file: {one_line(error, 1)}") from error


def _differences(wanted: Mapping[str, Array], got: Sequence[Array], tolerances: Mapping[str, float]) -> Iterator[str]:
    for (name, right), array in zip(wanted.items(), got, strict=True):
        if array.dtype != right.dtype or array.shape != right.shape:
            yield f"output {name}: got {array.dtype}{list(array.shape)}, expected {right.dtype}{list(right.shape)}"
            continue
        row = compare(name, {}, array, right, tolerances=tolerances)
        if not row.passes:
            share = _rows_apart(right, array, row.allowed).mean()
            error = f", error {row.error:.2g}, allowed {row.allowed:.2g}" if right.dtype.kind == "f" else ""
            yield f"output {name}: {share:.2%} of {len(right)} drawn rows differ{error}"


def _rows_apart(wanted: Array, got: Array, allowed: float) -> Array:
    """Return which rows differ by more than allowed."""
    if wanted.dtype.kind == "f":
        right, given = wanted.astype(np.float64), got.astype(np.float64)
        same = (np.abs(right - given) <= allowed) | (np.isnan(right) & np.isnan(given)) | (right == given)
    else:
        same = wanted == got
    apart: Array = ~same.reshape(len(wanted), -1).all(axis=1)
    return apart


def _rounding(candidate: Candidate, edges: bool) -> str:
    """Return a sentence about rows whose results change as their values are rounded to float32; "" for none."""
    if candidate.fitted is None:
        return ""
    wide = tuple(replace(spec, dtype="float64") if spec.dtype == "float32" else spec for spec in candidate.inputs)
    rows, _ = candidate.fitted.table(_ROWS, np.random.default_rng(2), edges)
    try:
        wanted = candidate.run(candidate.fitted.feeds(rows, wide))
        got = candidate.run(candidate.fitted.feeds(rows, candidate.inputs))
    except Exception:  # the framework's own, for values that it does not take
        return ""
    apart = np.zeros(_ROWS, bool)
    for name, right in wanted.items():
        row = compare(name, {}, got[name], right, tolerances={"float32": 1e-4, "float64": 1e-4})
        apart |= _rows_apart(right, got[name], row.allowed)
    where = "drawn at thresholds and beside them" if edges else "as the model was made for"
    cure = "; --input name=float64[...] keeps their values" if edges else ""
    return f"{apart.mean():.1%} of rows {where} have other results once rounded to float32{cure}" if apart.any() else ""
