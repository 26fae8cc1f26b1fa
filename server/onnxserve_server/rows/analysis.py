"""The verdict of the graph on the rows of a model: independent, they meet at a node, or unknown because of a node."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from onnxserve_server.rows.axes import PURE, Axis
from onnxserve_server.rows.interpreter import Interpreter, OverBudget
from onnxserve_server.rows.rules import RULES
from onnxserve_server.rows.sizes import symbol
from onnxserve_server.rows.values import Abstract, Poison, Value
from onnxserve_server.spec import Rows, RowVerdict, TensorSpec

assert RULES  # registered by the import

MAX_SECONDS = 20.0
"""How long the analysis of one model may take, unless the caller says otherwise."""


class Analysis(NamedTuple):
    """What the graph shows: the verdict on its rows, and the outputs that are the same for all rows, by name."""

    verdict: RowVerdict
    shared: tuple[str, ...] = ()


def analyse(
    model: ModelProto | Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_seconds: float = MAX_SECONDS,
) -> RowVerdict:
    """Judge by the graph alone whether the rows of a run can change each other's outputs; see analyse_outputs()."""
    return analyse_outputs(model, inputs, outputs, max_seconds=max_seconds).verdict


def analyse_outputs(
    model: ModelProto | Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_seconds: float = MAX_SECONDS,
) -> Analysis:
    """Judge by the graph alone whether the rows of a run can change each other's outputs.

    Args:
        model: the model, or its file. Large weights are not unpacked, external data is not read.
        inputs: the inputs with the axes that their rows lie along; one without such an axis is the same for all rows.
        outputs: the outputs that count, likewise.
        max_seconds: after this time the verdict is UNKNOWN.

    Returns:
        INDEPENDENT, which is proved: row i of each output depends on row i of the inputs and on shared inputs, and has
        as many rows as they have. MEET, with the node where rows may change each other. UNKNOWN, with the node that the
        analysis cannot follow. Every other fault of the graph is UNKNOWN, too: nothing is raised. And the outputs that
        are proved to depend on neither the rows nor their number, whatever the verdict.
    """
    try:
        return _judge(model, inputs, outputs, time.monotonic() + max_seconds)
    except OverBudget as limit:
        return Analysis(RowVerdict(Rows.UNKNOWN, str(limit)))
    except Exception as error:  # whatever a file may contain
        return Analysis(RowVerdict(Rows.UNKNOWN, f"the analysis cannot read the graph: {error!r}"[:300]))


def _judge(
    model: ModelProto | Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], deadline: float
) -> Analysis:
    if isinstance(model, Path):
        model = onnx.load(model, load_external_data=False)
    declared = {value.name: value for value in model.graph.input}
    given = {spec.name: _input(spec, declared.get(spec.name)) for spec in inputs}
    found = Interpreter(model, deadline).run(given)
    producers = _producers(model)
    shared = [name for name, value in found.items() if isinstance(value, Value) and value.is_shared]
    verdict = _worst([_output(spec, found.get(spec.name), producers) for spec in outputs])
    return Analysis(verdict, tuple(shared))


def _worst(verdicts: Sequence[RowVerdict]) -> RowVerdict:
    for rows in (Rows.MEET, Rows.UNKNOWN):
        for verdict in verdicts:
            if verdict.rows is rows:
                return verdict
    return RowVerdict(Rows.INDEPENDENT)


def _input(spec: TensorSpec, declared: ValueInfoProto | None) -> Abstract:
    kind = declared.type if declared is not None else None
    if kind is not None and not (kind.HasField("tensor_type") and kind.tensor_type.HasField("shape")):
        if spec.batch_axis is None:
            return Value(axes=None)
        return Poison(Rows.UNKNOWN, f"input {spec.name} declares no shape", "")
    axes = [Axis(size if isinstance(size, int) else symbol(f"{spec.name}[{k}]")) for k, size in enumerate(spec.shape)]
    if spec.batch_axis is not None:
        if not (spec.batch_axis < len(axes) and isinstance(spec.shape[spec.batch_axis], str)):
            return Poison(Rows.UNKNOWN, f"input {spec.name} has no free axis for rows", "")
        axes[spec.batch_axis] = PURE
    return Value(axes=tuple(axes), dtype=kind.tensor_type.elem_type if kind is not None else 0)


def _output(spec: TensorSpec, value: Abstract | None, producers: Mapping[str, NodeProto]) -> RowVerdict:
    producer = producers.get(spec.name)
    node = (producer.name or spec.name) if producer is not None else ""
    if isinstance(value, Poison):
        return RowVerdict(value.rows, f"output {spec.name}: {value.reason}", value.node)
    if not isinstance(value, Value):
        return RowVerdict(Rows.UNKNOWN, f"output {spec.name} is not a tensor of the graph", node)
    if value.is_shared:
        return RowVerdict(Rows.INDEPENDENT)
    if value.by_count:
        return RowVerdict(Rows.MEET, f"output {spec.name}: its values depend on the number of rows", node)
    axis = value.row_axis
    if axis is not None and axis == spec.batch_axis and value.known[axis].is_pure:
        return RowVerdict(Rows.INDEPENDENT)
    return RowVerdict(Rows.MEET, f"output {spec.name}: its rows do not lie along axis {spec.batch_axis} alone", node)


def _producers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}
