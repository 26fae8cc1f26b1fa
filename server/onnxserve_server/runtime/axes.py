"""Along which axis the rows of a model's inputs and outputs lie, where it is not the first, and which inputs have none.

model.yaml says it, or else the metadata of the model file: JSON, under the same two keys.
"""

import json
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.spec import TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchAxes:
    """What model.yaml says of it. None: nothing, and the model file's metadata counts.

    Attributes:
        file: the model.yaml, to be named where it is wrong.
        batch_axis: axes, by the name of their input or output.
        shared: inputs without rows: requests share a run only where they have the same in them.
    """

    file: str = ""
    batch_axis: Mapping[str, int] | None = None
    shared: Sequence[str] | None = None


Specs = tuple[TensorSpec, ...]


def placed(
    path: Path, told: BatchAxes, inputs: Specs, outputs: Specs, metadata: MutableMapping[str, str]
) -> tuple[Specs, Specs]:
    """Return a model's inputs and outputs with their batch axes; what the metadata says of them is taken out of it.

    Args:
        path: the model file.
        told: what model.yaml says.
        inputs: as the graph has them.
        outputs: as the graph has them.
        metadata: the model file's.

    Raises:
        ConfigurationError: there is no such tensor or axis, the axis is not free, or no input is left that has rows.
    """
    axes, said_by = told.batch_axis, told.file
    if axes is None:
        axes, said_by = _axes_in(metadata), str(path)
    for name, axis in axes.items():
        if fault := _fault_of_axis(name, axis, inputs + outputs):
            raise ConfigurationError(f"{said_by}: batch_axis.{name}: {fault}")
    shared, said_by = told.shared, told.file
    if shared is None:
        shared, said_by = _shared_in(metadata), str(path)
    for name in shared:
        if fault := _fault_of_shared(name, inputs, outputs, axes):
            raise ConfigurationError(f"{said_by}: shared.{name}: {fault}")
    if inputs and all(spec.name in shared for spec in inputs):
        raise ConfigurationError(f"{said_by}: shared: no input is left that has rows")

    def place(spec: TensorSpec) -> TensorSpec:
        return replace(spec, batch_axis=None if spec.name in shared else axes.get(spec.name, 0))

    return tuple(map(place, inputs)), tuple(map(place, outputs))


def _fault_of_axis(name: str, axis: int, specs: Specs) -> str:
    spec = next((spec for spec in specs if spec.name == name), None)
    if spec is None:
        return f"the model has no such input or output; it has {_names(specs)}"
    if not 0 <= axis < len(spec.shape):
        shape = ", ".join(str(size or "?") if isinstance(size, str) else str(size) for size in spec.shape)
        return f"its shape [{shape}] has no axis {axis}; they are counted from 0"
    if isinstance(spec.shape[axis], int):
        return f"its axis {axis} has the fixed size {spec.shape[axis]}"
    return ""


def _fault_of_shared(name: str, inputs: Specs, outputs: Specs, axes: Mapping[str, int]) -> str:
    if any(spec.name == name for spec in outputs):
        return "it is an output; only inputs can be shared"
    if all(spec.name != name for spec in inputs):
        return f"the model has no such input; it has {_names(inputs)}"
    return "it cannot have a batch_axis, too" if name in axes else ""


def _names(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _axes_in(metadata: MutableMapping[str, str]) -> dict[str, int]:
    """Take "batch_axis" out of the metadata where it is a JSON object of numbers; other tools may mean other things."""
    told = _json(metadata, "batch_axis")
    if not isinstance(told, dict) or not all(type(axis) is int for axis in told.values()):
        return {}
    del metadata["batch_axis"]
    return told


def _shared_in(metadata: MutableMapping[str, str]) -> list[str]:
    """Take "shared" out of the metadata where it is a JSON list of names."""
    told = _json(metadata, "shared")
    if not isinstance(told, list) or not all(isinstance(name, str) for name in told):
        return []
    del metadata["shared"]
    return told


def _json(metadata: Mapping[str, str], key: str) -> object:
    try:
        return json.loads(metadata.get(key, "null"))
    except ValueError:
        return None
