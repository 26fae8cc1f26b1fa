"""The caller's arrays, made to fit the model's inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxserve._models import ModelInfo, TensorSpec
from onnxserve.tensor import Array

# For each kind of dtype, the kinds of arrays that are accepted; whole numbers must not change.
_TAKEN = {"f": "fiu", "i": "iuf", "u": "iuf", "b": "b", "O": "OUST"}


class ExplainError(ValueError):
    """A prediction that cannot be explained as asked; the message says why, and what would help."""


def instance_of(info: ModelInfo, inputs: Any) -> dict[str, Array]:
    """Return one row for every input of a model, of its dtype, with the batch axis in front where it has one.

    Args:
        info: the model.
        inputs: an array for each input, with or without a batch axis of size 1; for a model of one input the array
            alone.

    Raises:
        ExplainError: an input is missing, unknown, of another dtype or shape, or has several rows.
    """
    specs = {spec.name: spec for spec in info.inputs}
    given = _by_name(info, inputs)
    if missing := [name for name in specs if name not in given]:
        raise ExplainError(f"input {missing[0]!r} is missing; give all of {', '.join(specs)}")
    return {name: _instance(specs[name], given[name]) for name in specs}


def background_of(info: ModelInfo, background: Any) -> dict[str, Array]:
    """Return the background rows, [rows, ...], of each input that `background` has.

    Raises:
        ExplainError: an input is unknown, has another dtype or shape, has no rows, or another number than the others.
    """
    specs = {spec.name: spec for spec in info.inputs}
    given = {name: _rows(specs[name], array) for name, array in _by_name(info, background).items()}
    counts = {name: len(array) for name, array in given.items()}
    if len(set(counts.values())) > 1:
        rows = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ExplainError(f"the background must have the same number of rows for each input, but {rows}")
    return given


def pick(given: str | None, fitting: list[str], what: str) -> str:
    """Return the input to vary: the one `given`, or the only fitting one.

    Raises:
        ExplainError: there is none, or more than one.
    """
    names = ", ".join(fitting) or "none"
    if given is not None:
        if given not in fitting:
            raise ExplainError(f"{given!r} is not an {what} of the model; those are: {names}")
        return given
    if not fitting:
        raise ExplainError(f"the model has no {what}")
    if len(fitting) > 1:
        raise ExplainError(f"the model has more than one {what}; choose which to vary: {names}")
    return fitting[0]


def _by_name(info: ModelInfo, inputs: Any) -> dict[str, Any]:
    names = [spec.name for spec in info.inputs]
    if hasattr(inputs, "columns"):  # a data frame: one input of many columns, or an input for each
        inputs = {name: inputs[name].to_numpy() for name in inputs.columns} if len(names) > 1 else inputs.to_numpy()
    if not isinstance(inputs, Mapping):
        if len(names) != 1:
            raise ExplainError(f"the model has the inputs {', '.join(names)}; give an array for each, by name")
        return {names[0]: inputs}
    if unknown := [name for name in inputs if name not in names]:
        raise ExplainError(f"unknown input {unknown[0]!r}; the model's inputs are {', '.join(names)}")
    return dict(inputs)


def _instance(spec: TensorSpec, given: Any) -> Array:
    array = _cast(spec, given)
    if spec.batch_axis is None:
        return array
    if array.ndim == len(spec.shape) and len(array) != 1:
        raise ExplainError(f"input {spec.name!r} has {len(array)} rows; one row is explained at a time")
    if not array.ndim:  # a text, or a number for an input that is one column
        array = array.reshape((1,) * len(spec.shape))
    elif array.ndim == len(spec.shape) - 1:
        array = array[np.newaxis]
    _check_shape(spec, array)
    return array


def _rows(spec: TensorSpec, given: Any) -> Array:
    array = _cast(spec, given)
    if array.ndim == len(spec.shape) - 1 and spec.shape[1:] == (1,):  # a column of a data frame
        array = array[:, np.newaxis]
    _check_shape(spec, array)
    if not len(array):
        raise ExplainError(f"input {spec.name!r}: the background has no rows")
    return array


def _check_shape(spec: TensorSpec, array: Array) -> None:
    if spec.batch_axis != 0:
        raise ExplainError(f"input {spec.name!r} cannot be varied: its rows do not lie along its first axis")
    fits = array.ndim == len(spec.shape) and all(
        size == axis or not isinstance(axis, int) for size, axis in zip(array.shape[1:], spec.shape[1:], strict=True)
    )
    if not fits:
        shape = ", ".join("?" if axis is None else str(axis) for axis in spec.shape)
        raise ExplainError(f"input {spec.name!r} has the shape [{shape}], not {list(array.shape)}")


def _cast(spec: TensorSpec, given: Any) -> Array:
    """Return an array of an input's dtype: floats are rounded to its precision, nothing else is changed."""
    array = np.asarray(given)
    if spec.dtype.startswith(("bfloat", "float8")):
        raise ExplainError(f"input {spec.name!r} is {spec.dtype}, which cannot be explained")
    dtype = np.dtype(object if spec.dtype == "string" else spec.dtype)
    if array.dtype.kind not in _TAKEN[dtype.kind]:
        raise ExplainError(f"input {spec.name!r} is {spec.dtype}, not {array.dtype}")
    cast: Array = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, array):
        raise ExplainError(f"input {spec.name!r}: a value is out of range for {spec.dtype}")
    if dtype.kind == "O" and not all(isinstance(element, str) for element in cast.flat):
        raise ExplainError(f"input {spec.name!r} is string, but a value is not a str")
    return cast
