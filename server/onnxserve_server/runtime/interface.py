"""A loaded model's inputs and outputs, metadata and description, as callers see them and as ONNX Runtime knows them."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from onnxserve.tensor import STORAGE, Array, DataType
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.messages import cure_of_type
from onnxserve_server.runtime.model_file import ModelFile, read_model_file
from onnxserve_server.spec import MAX_OPTIONAL, TensorSpec

# ONNX Runtime's names of the element types.
_TYPES = {
    "tensor(float)": DataType.DATA_TYPE_FLOAT,
    "tensor(uint8)": DataType.DATA_TYPE_UINT8,
    "tensor(int8)": DataType.DATA_TYPE_INT8,
    "tensor(uint16)": DataType.DATA_TYPE_UINT16,
    "tensor(int16)": DataType.DATA_TYPE_INT16,
    "tensor(int32)": DataType.DATA_TYPE_INT32,
    "tensor(int64)": DataType.DATA_TYPE_INT64,
    "tensor(string)": DataType.DATA_TYPE_STRING,
    "tensor(bool)": DataType.DATA_TYPE_BOOL,
    "tensor(float16)": DataType.DATA_TYPE_FLOAT16,
    "tensor(double)": DataType.DATA_TYPE_DOUBLE,
    "tensor(uint32)": DataType.DATA_TYPE_UINT32,
    "tensor(uint64)": DataType.DATA_TYPE_UINT64,
    "tensor(bfloat16)": DataType.DATA_TYPE_BFLOAT16,
    "tensor(float8e4m3fn)": DataType.DATA_TYPE_FLOAT8E4M3FN,
    "tensor(float8e4m3fnuz)": DataType.DATA_TYPE_FLOAT8E4M3FNUZ,
    "tensor(float8e5m2)": DataType.DATA_TYPE_FLOAT8E5M2,
    "tensor(float8e5m2fnuz)": DataType.DATA_TYPE_FLOAT8E5M2FNUZ,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """What callers can see of a model.

    Attributes:
        inputs: those that each request must have.
        optional: inputs that have a default.
        outputs: those that can be served.
        left_out: the others, each with its type.
        metadata: of the file.
        description: of the file.
        names: the bytes of names that are not UTF-8, by the text that stands for them.
    """

    inputs: tuple[TensorSpec, ...]
    optional: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    left_out: tuple[str, ...]
    metadata: Mapping[str, str]
    description: str
    names: Mapping[str, bytes]


def describe(path: Path, session: onnxruntime.InferenceSession) -> Interface:
    """Describe a loaded model. Text that is not UTF-8 is read with a replacement.

    Raises:
        ConfigurationError: an input is not of a type that can be sent, or no output is; or the replacement gives two
            inputs or outputs one name.
    """
    return _Description(path, session).interface()


class _Description:
    def __init__(self, path: Path, session: onnxruntime.InferenceSession) -> None:
        self._path = path
        self._session = session
        self._names: dict[str, bytes] = {}

    def interface(self) -> Interface:
        inputs, unsent = self._specs(self._session.get_inputs(), "inputs")
        outputs, left_out = self._specs(self._session.get_outputs(), "outputs")
        if unsent or not outputs:
            faults = "; ".join(f"{name} is a {kind}{cure_of_type(kind)}" for name, kind in unsent or left_out)
            raise ConfigurationError(f"{self._path}: {faults}")
        return Interface(
            inputs=inputs,
            optional=self._optional(),
            outputs=outputs,
            left_out=tuple(f"{name}: {kind}" for name, kind in left_out),
            metadata=self._metadata(),
            description=self._description(),
            names=self._names,
        )

    @functools.cached_property
    def _file(self) -> ModelFile:
        try:
            return read_model_file(self._path)
        except (OSError, ValueError):  # a format of ONNX Runtime's own, of which it says all there is
            return ModelFile()

    def _specs(
        self, arguments: Sequence[onnxruntime.NodeArg], kind: Literal["inputs", "outputs"]
    ) -> tuple[tuple[TensorSpec, ...], list[tuple[str, str]]]:
        """Return the specs of what can be served, and name and type of the others."""
        specs, others = dict[str, TensorSpec](), list[tuple[str, str]]()
        for argument in arguments:
            name, number = self._name(argument), _TYPES.get(argument.type)
            if number is None:
                others.append((name, argument.type))
                continue
            if name in specs:
                raise ConfigurationError(f"{self._path}: two {kind} are called {name!r}, as UTF-8; rename one of them")
            shape = self._shape(argument, self._names.get(name, name.encode()))
            specs[name] = TensorSpec(name=name, data_type=number, shape=shape or (), any_shape=shape is None)
        return tuple(specs.values()), others

    def _name(self, argument: onnxruntime.NodeArg) -> str:
        try:
            return str(argument.name)
        except UnicodeDecodeError as error:
            name = _text(error.object)
            self._names[name] = error.object
            return name

    def _shape(self, argument: onnxruntime.NodeArg, name: bytes) -> tuple[int | str, ...] | None:
        """Return a tensor's shape; None if the file declares none, and ONNX Runtime knows no more."""
        try:
            shape = argument.shape
        except UnicodeDecodeError:  # the name of an axis
            declared = self._file.shapes.get(name) or ()
            return tuple(_text(size) if isinstance(size, bytes) else size for size in declared)
        if not shape and self._file.shapes.get(name, ()) is None:
            return None
        return tuple(size if isinstance(size, int) and size >= 0 else str(size or "") for size in shape)

    def _optional(self) -> tuple[TensorSpec, ...]:
        """Return the inputs with a default; none if these are the model's weights."""
        arguments = self._session.get_overridable_initializers()
        if len(arguments) > MAX_OPTIONAL:
            return ()
        specs, _ = self._specs(arguments, "inputs")
        defaults = {spec: self._default(spec) for spec in specs}
        return tuple(
            replace(spec, default=default, batch_axis=None) for spec, default in defaults.items() if default is not None
        )

    def _default(self, spec: TensorSpec) -> Array | None:
        """Return the default of an input, if the file has it in one of the usual ways."""
        default = self._file.defaults.get(self._names.get(spec.name, spec.name.encode()))
        if default is None or spec.data_type not in STORAGE:
            return None
        dtype = STORAGE[spec.data_type]
        size = dtype.itemsize
        data = default.data or b"".join(
            (value % (1 << 8 * size)).to_bytes(size, "little") for value in default.integers
        )
        array = np.frombuffer(data, dtype)
        return array.reshape(default.shape) if array.size == math.prod(default.shape) else None

    def _metadata(self) -> dict[str, str]:
        try:
            return dict(self._session.get_modelmeta().custom_metadata_map)
        except UnicodeDecodeError:
            return {_text(key): _text(value) for key, value in self._file.metadata}

    def _description(self) -> str:
        try:
            return str(self._session.get_modelmeta().description)
        except UnicodeDecodeError as error:
            return _text(error.object)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
