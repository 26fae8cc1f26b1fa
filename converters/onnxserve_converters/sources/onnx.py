"""Adopts ONNX files; their optimized run is compared with the one without optimization."""

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorShapeProto

from onnxserve.tensor import NAMES, Array
from onnxserve_converters import graph
from onnxserve_converters.cases import Case
from onnxserve_converters.drawing import Drawer, Limits
from onnxserve_converters.errors import BadRequest, NotProved, one_line
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.request import Request
from onnxserve_converters.sources.declared import Declared, complete
from onnxserve_converters.sources.dynamic_axes import free_batch_axis
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.session import Session, SessionOptions

_EXTERNAL_DATA_ABOVE = 1 << 30  # bytes; protobuf holds 2 GiB at most


def load(request: Request, kind: str) -> "OnnxModel":
    """Return the model of an .onnx file.

    Raises:
        BadRequest: the file is not a valid ONNX file, ONNX Runtime cannot load it, or the request contradicts it.
        NotProved: the file violates the ONNX standard.
    """
    del kind
    path = request.source
    proto = _read(path)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None)
    if request.opset not in (None, opset):
        raise BadRequest(
            f"--opset {request.opset}: {path} has opset {opset}, which adopting it does not change; leave --opset out"
        )
    _check(path)
    try:
        session = Session(path, SessionOptions(graph_optimization="disable"))
    except ConfigurationError as error:
        raise BadRequest(str(error)) from error
    declared = _declared(proto, session)
    inputs = complete(path, declared, request.inputs, fixes_rows=True)
    return OnnxModel(proto, session, inputs, _freed(declared, inputs))


class OnnxModel:
    """A file that ONNX Runtime runs without optimization; implements sources.base.Model.

    Args:
        proto: the file, with its weights.
        session: the file, loaded.
        inputs: complete descriptions.
        freed: inputs with a batch fixed to 1 in the file, and a free one in the export.
    """

    def __init__(self, proto: ModelProto, session: Session, inputs: tuple[InputSpec, ...], freed: set[str]) -> None:
        self._proto, self._session, self._freed = proto, session, freed
        self.inputs = inputs
        self.reference = f"ONNX Runtime {onnxruntime.__version__}, without optimization"
        self.versions = {"onnxruntime": metadata.version("onnxruntime")}
        self.labels = _labels(proto)
        self.drawer: Drawer | None = None
        self.notes = (
            [f"the file fixes the batch of {', '.join(sorted(freed))} to 1; the conversion freed it"] if freed else []
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the file as it is; row by row where its batch is fixed to 1."""
        if not self._freed:
            return self._run(feeds)
        rows = len(feeds[min(self._freed)])
        answers = [
            self._run({name: array[i : i + 1] if name in self._freed else array for name, array in feeds.items()})
            for i in range(rows)
        ]
        for name, array in answers[0].items():
            if array.shape[:1] != (1,):
                raise BadRequest(
                    f"output {name}: its shape for one row, {list(array.shape)}, has no batch axis, so rows cannot be "
                    "joined; leave the batch fixed to 1 in --input"
                )
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def value_limits(self, examples: Sequence[Mapping[str, Array]]) -> dict[str, Limits]:
        """Return the limits of indices, by the tables that the graph gathers from, as drawing.KnowsLimits."""
        del examples
        rows: dict[str, int] = {}
        for name, count in graph.gathered(self._proto.graph):
            rows[name] = min(rows.get(name, count), count)
        return {
            name: Limits(0, count - 1, f"indices of the {count} rows of the table that the graph looks them up in")
            for name, count in rows.items()
        }

    def export(self, path: Path, example: Case, opset: int | None) -> None:
        """Write the file again, with its weights inside or beside it, and with a free batch where requested."""
        del example, opset
        if self._freed:
            free_batch_axis(self._proto.graph, self._freed)
        graph.write(self._proto, path, _EXTERNAL_DATA_ABOVE)

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self._session.outputs]
        return dict(zip(names, self._session.run(dict(feeds), names), strict=True))


def _read(path: Path) -> ModelProto:
    try:
        proto = onnx.load(path)
    except Exception as error:  # protobuf's and onnx's own errors, and the file system's
        raise BadRequest(f"{path}: not a valid ONNX file: {one_line(error)}") from error
    if not (proto.ir_version and proto.graph.output):
        raise BadRequest(f"{path}: not a valid ONNX file: it has no graph")
    return proto


def _check(path: Path) -> None:
    """Check the structure alone: shapes are checked later, once they are corrected."""
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # ValidationError, by version
        raise NotProved(f"{path}: the file violates the ONNX standard: {one_line(error)}") from error


def _declared(proto: ModelProto, session: Session) -> list[Declared]:
    shapes = {value.name: value.type.tensor_type.shape for value in proto.graph.input}
    return [
        Declared(spec.name, NAMES[spec.data_type], tuple(_axis(dimension) for dimension in shapes[spec.name].dim))
        for spec in session.inputs
    ]


def _axis(dimension: TensorShapeProto.Dimension) -> int | str | None:
    if dimension.dim_value > 0:
        return dimension.dim_value
    return dimension.dim_param if dimension.dim_param not in ("", "?") else None  # older exporters wrote "?"


def _freed(declared: list[Declared], inputs: tuple[InputSpec, ...]) -> set[str]:
    """Return the inputs whose first axis is fixed in the file and named by the caller."""
    freed = {
        spec.name: spec.shape[0]
        for own, spec in zip(declared, inputs, strict=True)
        if spec.shape and own.shape and isinstance(own.shape[0], int) and isinstance(spec.shape[0], str)
    }
    if len(set(freed.values())) > 1:
        raise BadRequest(f"--input: give the first axes of {', '.join(freed)} one name; they are freed together")
    return set(freed)


def _labels(proto: ModelProto) -> dict[str, list[str]]:
    """Return the class names in a file's metadata, if they have the form of graph.annotate()."""
    written = {entry.key: entry.value for entry in proto.metadata_props}
    try:
        labels = json.loads(written.get("labels", "{}"))
    except ValueError:
        return {}
    if not (isinstance(labels, dict) and all(isinstance(names, list) for names in labels.values())):
        return {}
    return {output: [str(name) for name in names] for output, names in labels.items()}
