"""What the graph of an ONNX file shows of its rows: whether requests could change each other's answers."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto, ValueInfoProto

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.config import read_config
from onnxserve_server.rows.analysis import analyse
from onnxserve_server.runtime.axes import BatchAxes, assign_axes
from onnxserve_server.spec import Rows, RowVerdict, TensorSpec


def rows_of(
    model: ModelProto,
    inputs: Iterable[ValueInfoProto],
    config: Path | None,
    optional: Iterable[ValueInfoProto] = (),
) -> dict[str, str]:
    """Return the verdict of the graph alone, as describe() has it.

    Args:
        model: without external data.
        inputs: those that are not weights.
        config: its model.yaml, which may say where the rows lie; None without.
        optional: inputs with a default: no constants, for a request may bring others.
    """
    try:
        takes, gives, *_ = assign_axes(
            _configured(config),
            tuple(map(_spec, inputs)),
            tuple(map(_spec, model.graph.output)),
            {entry.key: entry.value for entry in model.metadata_props},
        )
    except ConfigurationError as error:
        return describe(RowVerdict(Rows.UNKNOWN, str(error)))
    defaults = tuple(replace(_spec(each), batch_axis=None) for each in optional)
    return describe(analyse(model, takes + defaults, gives))


def describe(verdict: RowVerdict) -> dict[str, str]:
    """Return a verdict as reports have it: {"verdict": its name in lower case, "node", "reason"}."""
    return {"verdict": verdict.rows.value, "node": verdict.node, "reason": verdict.reason}


def sentence(rows: dict[str, str]) -> str:
    """Return a described verdict in words."""
    what = {
        Rows.INDEPENDENT: "independent: the graph shows that rows of a run cannot change each other",
        Rows.MEET: "rows meet",
        Rows.DEPENDENT: "dependent: a row was seen to change with its neighbours",
        Rows.UNKNOWN: "unknown",
    }[Rows(rows["verdict"])]
    where = f" at node {rows['node']}" if rows["node"] else ""
    return f"{what}{where}{': ' * bool(rows['reason'])}{rows['reason']}"


def _configured(file: Path | None) -> BatchAxes:
    if file is None:
        return BatchAxes()
    config = read_config(file, {})
    return BatchAxes(file=str(file), batch_axis=config.batch_axis, shared=config.shared)


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in tensor.shape.dim)
    return TensorSpec(name=value.name, data_type=tensor.elem_type, shape=shape)  # type: ignore[arg-type] # not read
