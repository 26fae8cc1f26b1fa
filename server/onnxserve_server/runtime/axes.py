"""Along which axis the rows of a model's inputs and outputs lie, and which inputs have no rows.

The default is the first axis. The configuration says otherwise, or else the metadata of the model file: JSON, under the
keys "batch_axis" and "shared".
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.metadata import json_in
from onnxserve_server.spec import TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchAxes:
    """What one place says of the axes. A field that is None says nothing: then the model file's metadata counts.

    Attributes:
        file: that place, which errors name.
        batch_axis: axes, by the name of their input or output.
        shared: inputs without rows: requests share a run only if these are equal.
    """

    file: str = ""
    batch_axis: Mapping[str, int] | None = None
    shared: Sequence[str] | None = None


Specs = tuple[TensorSpec, ...]
_Value = TypeVar("_Value")


class Assigned(NamedTuple):
    """A model's inputs and outputs with their batch axes.

    Attributes:
        inputs: as they were given, with their axes.
        outputs: likewise.
        metadata: the model file's, without the keys that were used.
        ignored: what of it has our form, but does not fit the model: why, by key.
    """

    inputs: Specs
    outputs: Specs
    metadata: Mapping[str, str]
    ignored: Mapping[str, str]


def assign_axes(configured: BatchAxes, inputs: Specs, outputs: Specs, metadata: Mapping[str, str]) -> Assigned:
    """Assign a model's inputs and outputs their batch axes.

    Args:
        configured: what the configuration says.
        inputs: as the graph has them.
        outputs: as the graph has them.
        metadata: the model file's; other tools may use our keys.

    Raises:
        ConfigurationError: as configured, a tensor or an axis does not exist, an axis has a fixed size, or no input has
            rows.
    """
    known = {spec.name for spec in inputs + outputs}
    used: set[str] = set()
    ignored: dict[str, str] = {}

    def choose(
        key: str, by_config: _Value | None, in_file: _Value | None, fault_of: Callable[[_Value], str]
    ) -> _Value | None:
        if by_config is not None:
            if fault := fault_of(by_config):
                raise ConfigurationError(f"{configured.file}: {key}{fault}")
            return by_config
        if in_file is not None and (fault := fault_of(in_file)):
            ignored[key] = f"{key}{fault}"
            return None
        used.update([] if in_file is None else [key])
        return in_file

    axes = choose(
        "batch_axis",
        configured.batch_axis,
        _axes_in(metadata, known),
        lambda axes: _fault_of_axes(axes, inputs, outputs),
    )
    beside = configured.batch_axis if configured.shared is not None else axes
    shared = choose(
        "shared",
        configured.shared,
        _shared_in(metadata, known),
        lambda shared: _fault_of_all_shared(shared, inputs, outputs, beside or {}),
    )
    axes, shared = axes or {}, shared or ()

    def assign(spec: TensorSpec) -> TensorSpec:
        default = None if spec.any_shape and spec in outputs else 0
        return replace(spec, batch_axis=None if spec.name in shared else axes.get(spec.name, default))

    unused = {key: text for key, text in metadata.items() if key not in used}
    return Assigned(tuple(map(assign, inputs)), tuple(map(assign, outputs)), unused, ignored)


def share(outputs: Specs, names: Container[str]) -> Specs:
    """Return a model's outputs, those of these names without rows. One of unknown shape stays as it is."""
    return tuple(
        replace(spec, batch_axis=None) if spec.name in names and not spec.any_shape else spec for spec in outputs
    )


def _fault_of_axes(axes: Mapping[str, int], inputs: Specs, outputs: Specs) -> str:
    faults = ((name, _fault_of_axis(name, axis, inputs, outputs)) for name, axis in axes.items())
    return next((f".{name}: {fault}" for name, fault in faults if fault), "")


def _fault_of_axis(name: str, axis: int, inputs: Specs, outputs: Specs) -> str:
    spec = next((spec for spec in inputs + outputs if spec.name == name), None)
    if spec is None:
        return f"unknown input or output; the model's are {_names(inputs + outputs)}"
    if spec.any_shape and axis >= 0:  # whether the runs of an output have it is seen when the model is tried
        return "the model declares no shape for it; export it with one" if spec in inputs else ""
    if not 0 <= axis < len(spec.shape):
        shape = ", ".join(str(size or "?") if isinstance(size, str) else str(size) for size in spec.shape)
        return f"its shape [{shape}] has no axis {axis}; axes are counted from 0"
    if isinstance(spec.shape[axis], int):
        return f"axis {axis} has the fixed size {spec.shape[axis]}; rows need a free axis"
    return ""


def _fault_of_all_shared(shared: Sequence[str], inputs: Specs, outputs: Specs, axes: Mapping[str, int]) -> str:
    faults = ((name, _fault_of_shared(name, inputs, outputs, axes)) for name in shared)
    if fault := next((f".{name}: {fault}" for name, fault in faults if fault), ""):
        return fault
    if inputs and all(spec.name in shared for spec in inputs):
        return ": at least one input must have rows, and so not be shared"
    return ""


def _fault_of_shared(name: str, inputs: Specs, outputs: Specs, axes: Mapping[str, int]) -> str:
    if any(spec.name == name for spec in outputs):
        return "it is an output; only inputs can be shared"
    if all(spec.name != name for spec in inputs):
        return f"unknown input; the model's inputs are {_names(inputs)}"
    return "a shared input has no rows; remove it from batch_axis" if name in axes else ""


def _names(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _axes_in(metadata: Mapping[str, str], known: Container[str]) -> dict[str, int] | None:
    """Return "batch_axis" of the metadata if it is a JSON object of integers by known names."""
    axes = json_in(metadata, "batch_axis")
    if isinstance(axes, dict) and all(type(axis) is int and name in known for name, axis in axes.items()):
        return axes
    return None


def _shared_in(metadata: Mapping[str, str], known: Container[str]) -> list[str] | None:
    """Return "shared" of the metadata if it is a JSON list of known names."""
    names = json_in(metadata, "shared")
    if isinstance(names, list) and all(isinstance(name, str) and name in known for name in names):
        return names
    return None
