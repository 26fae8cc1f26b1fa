"""Narrows a difference down: to the first module of the framework whose value the ONNX file does not have."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from onnx import ModelProto, NodeProto, ValueInfoProto

from onnxserve.tensor import Array
from onnxserve_converters import graph
from onnxserve_converters.comparison import compare
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.interface import stand_in
from onnxserve_server.runtime.session import Session, SessionOptions

_SCOPES = "pkg.torch.onnx.name_scopes"


@runtime_checkable
class HasInnerValues(Protocol):
    """A model that can give the values of its modules.

    Attributes:
        inputs: complete descriptions.
    """

    inputs: tuple[InputSpec, ...]

    def inner_values(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the first tensor that each module returns, by its path, in the order in which they end."""
        ...


def first_difference(
    model: HasInnerValues,
    exported: Path,
    feeds: Mapping[str, Array],
    tolerances: Mapping[str, float],
) -> dict[str, str] | None:
    """Return the first module whose value no node of its own has, and the last of its nodes; None where there is none.

    Args:
        model: gives the values of its modules.
        exported: the exporter's file, whose nodes are named after modules.
        feeds: inputs on which the two differ.
        tolerances: as for comparison.compare().

    Returns:
        {"module": its path, "node": the node's name, "operator": the node's}.
    """
    wanted = model.inner_values(feeds)
    proto = graph.read(exported, external_data=False)
    nodes = {path: [node for node in proto.graph.node if _is_in(path, node)] for path in wanted}
    got = _inner_run(proto, exported, model.inputs, feeds, {name for own in nodes.values() for name in _outputs(own)})
    for path, array in wanted.items():
        same_form = [
            (node, got[name])
            for node in nodes[path]
            for name in _outputs([node])
            if name in got and got[name].shape == array.shape and got[name].dtype == array.dtype
        ]
        if same_form and not any(compare(path, {}, each, array, tolerances=tolerances).passes for _, each in same_form):
            node = same_form[-1][0]
            return {"module": path, "node": node.name, "operator": node.op_type}
    return None


def _outputs(nodes: Sequence[NodeProto]) -> Iterator[str]:
    yield from (name for node in nodes for name in node.output if name)


def _is_in(path: str, node: NodeProto) -> bool:
    """Whether a node belongs to a module, by either of torch's exporters: its scopes, or a name made of them."""
    written = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
    if written is not None:
        return path in [scope.removeprefix("model.") for scope in ast.literal_eval(written)]
    own = node.name.strip("/").replace("/", ".").removeprefix("model.")
    return own.startswith(f"{path}.")


def _inner_run(
    proto: ModelProto, path: Path, inputs: Sequence[InputSpec], feeds: Mapping[str, Array], names: set[str]
) -> dict[str, Array]:
    """Run a file with inner values as its outputs."""
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(ValueInfoProto(name=name) for name in sorted(names - known))
    opened = path.with_name(f"{path.stem}-opened.onnx")  # beside it, for its external data
    opened.write_bytes(proto.SerializeToString())
    session = Session(opened, SessionOptions(graph_optimization="disable"))
    by_name: dict[str, Any] = {stand_in(i): feeds[spec.name] for i, spec in enumerate(inputs)} | dict(feeds)
    given = {spec.name: by_name[spec.name] for spec in session.inputs}
    outputs = [spec.name for spec in session.outputs]
    return dict(zip(outputs, session.run(given, outputs), strict=True))
