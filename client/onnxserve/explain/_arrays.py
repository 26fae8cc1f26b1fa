"""The caller's arrays, made to fit the model's inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxserve._models import ModelInfo, TensorSpec
from onnxserve.tensor import Array

# The kinds of arrays that are taken for each kind of dtype; whole numbers must come through unchanged.
_TAKEN = {"f": "fiu", "i": "iuf", "u": "iuf", "b": "b", "O": "OUST"}


class ExplainError(ValueError):
    """What was asked for cannot be explained; its text says why, and what would help."""


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
        raise ExplainError(f"the model also has the input {missing[0]!r}: give all of {', '.join(specs)}")
    return {name: _instance(specs[name], given[name]) for name in specs}


def background_of(info: ModelInfo, background: Any) -> dict[str, Array]:
    """Return rows, [rows, ...] each and as many in each, for the inputs that `background` has.

    Raises:
        ExplainError: an input is unknown, of another dtype or shape, or has no rows, or not as many as the others.
    """
    specs = {spec.name: spec for spec in info.inputs}
    given = {name: _rows(specs[name], array) for name, array in _by_name(info, background).items()}
    counts = {name: len(array) for name, array in given.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ExplainError(f"the background has as many rows for each input, but {told}")
    return given


def pick(given: str | None, fitting: list[str], what: str) -> str:
    """Return the input to vary: the one `given`, or the only one that is fitting.

    Raises:
        ExplainError: there is none, or more than one.
    """
    told = ", ".join(fitting) or "none"
    if given is not None:
        if given not in fitting:
            raise ExplainError(f"{given!r} is no {what} of the model; it has {told}")
        return given
    if len(fitting) != 1:
        raise ExplainError(f"one {what} is to be varied, and the model has {told}" + "; name one" * bool(fitting))
    return fitting[0]


def _by_name(info: ModelInfo, inputs: Any) -> dict[str, Any]:
    names = [spec.name for spec in info.inputs]
    if hasattr(inputs, "columns"):  # a data frame: one input of many columns, or an input for each
        inputs = {name: inputs[name].to_numpy() for name in inputs.columns} if len(names) > 1 else inputs.to_numpy()
    if not isinstance(inputs, Mapping):
        if len(names) != 1:
            raise ExplainError(f"the model has the inputs {', '.join(names)}: give an array for each, by name")
        return {names[0]: inputs}
    if unknown := [name for name in inputs if name not in names]:
        raise ExplainError(f"the model has no input {unknown[0]!r}; it has {', '.join(names)}")
    return dict(inputs)


def _instance(spec: TensorSpec, given: Any) -> Array:
    array = _cast(spec, given)
    if spec.batch_axis is None:
        return array
    if array.ndim == len(spec.shape) and len(array) != 1:
        raise ExplainError(f"input {spec.name!r}: one row is explained at a time, and here are {len(array)}")
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
        raise ExplainError(f"input {spec.name!r}: its rows do not lie along its first axis, so they cannot be varied")
    fits = array.ndim == len(spec.shape) and all(
        size == axis or not isinstance(axis, int) for size, axis in zip(array.shape[1:], spec.shape[1:], strict=True)
    )
    if not fits:
        told = ", ".join("?" if axis is None else str(axis) for axis in spec.shape)
        raise ExplainError(f"input {spec.name!r} has the shape [{told}], not {list(array.shape)}")


def _cast(spec: TensorSpec, given: Any) -> Array:
    """Return an array of an input's dtype: floats are rounded to its precision, nothing else is changed."""
    array = np.asarray(given)
    if spec.dtype.startswith(("bfloat", "float8")):
        raise ExplainError(f"input {spec.name!r} is {spec.dtype}, which cannot be explained")
    dtype = np.dtype(object if spec.dtype == "string" else spec.dtype)
    if array.dtype.kind not in _TAKEN[dtype.kind]:
        raise ExplainError(f"input {spec.name!r} is {spec.dtype}, and these values are {array.dtype}")
    cast: Array = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, array):
        raise ExplainError(f"input {spec.name!r} is {spec.dtype}, and a value is not in its range")
    if dtype.kind == "O" and not all(isinstance(element, str) for element in cast.flat):
        raise ExplainError(f"input {spec.name!r} is string, and a value is not a str")
    return cast
