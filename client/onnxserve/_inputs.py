"""Reads input arrays from files, for the command line."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxserve import TensorSpec
from onnxserve.tensor import Array

INPUT_HELP = (
    "name=file for each input: .npy, .npz (one array: file.npz:key), .json, or - for JSON or npy from stdin; "
    "or JSON itself: name=[1,2]."
)
"""The help of an option for read_inputs()."""

_NPY_MAGIC = b"\x93NUMPY"
# For each kind of dtype, the kinds of JSON arrays whose values it holds unchanged.
_JSON_KINDS = {"f": "fiu", "V": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "UO"}


class InputError(Exception):
    """An --input that cannot be used; its message says why."""


def read_inputs(arguments: Sequence[str], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Read every `name=file`.

    Args:
        arguments: arguments of the command line: `name=x.npy`, `name=x.npz`, `name=x.npz:key`, `name=x.json`, `name=-`
            (JSON or npy from stdin), or `name=[...]` (JSON itself).
        specs: the model's inputs, whose dtypes JSON values get. Arrays from .npy and .npz files keep their own.

    Raises:
        InputError: an argument is malformed, or its file is unreadable or does not fit the input.
    """
    by_name = {spec.name: spec for spec in specs}
    arrays: dict[str, Array] = {}
    for argument in arguments:
        name, equals, source = argument.partition("=")
        if not (name and equals and source):
            raise InputError(f"expected name=file, not {argument!r}")
        try:
            arrays[name] = _read(name, source, by_name)
        except OSError as error:
            raise InputError(f"{argument}: cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, EOFError, ImportError) as error:
            raise InputError(f"{argument}: {error}") from error
    return arrays


def _read(name: str, source: str, specs: dict[str, TensorSpec]) -> Array:
    if source == "-":
        data = sys.stdin.buffer.read()
        return _npy(data) if data.startswith(_NPY_MAGIC) else _json(name, data, specs)
    file, _, key = source.rpartition(":")
    if file.endswith(".npz"):
        return _npz(Path(file), key, name)
    path = Path(source)
    match path.suffix:
        case ".npz":
            return _npz(path, None, name)
        case ".npy":
            return _npy(path.read_bytes())
        case ".json":
            return _json(name, path.read_bytes(), specs)
    if source.startswith("["):
        return _json(name, source.encode(), specs)
    raise ValueError("expected a .npy, .npz or .json file, or JSON in brackets")


def _npy(data: bytes) -> Array:
    array: Array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return array


def _npz(path: Path, key: str | None, name: str) -> Array:
    """Return an archive's array `key`; without a key the array with the input's name, or the archive's only one."""
    with np.load(path, allow_pickle=False) as archive:
        if key is None:
            key = name if name in archive.files or len(archive.files) != 1 else archive.files[0]
        if key not in archive.files:
            raise ValueError(f"unknown array {key!r}; the arrays of the file are {', '.join(archive.files) or 'none'}")
        array: Array = archive[key]
    return array


def _json(name: str, data: bytes, specs: dict[str, TensorSpec]) -> Array:
    spec = specs.get(name)
    if spec is None:
        raise ValueError(f"unknown input {name!r}; the model's inputs are {', '.join(specs) or 'none'}")
    values = _values(data)
    dtype = dtype_of(spec.dtype)
    if values.size and values.dtype.kind not in _JSON_KINDS[dtype.kind]:
        raise ValueError(f"the values do not fit the input, which is {spec.dtype}")
    array: Array = values.astype(dtype)
    # Whole numbers must not change; decimal fractions are rounded to the dtype's precision.
    if values.dtype.kind in "iu" and dtype.kind in "iu" and not np.array_equal(array, values):
        raise ValueError(f"a value is out of range for {spec.dtype}")
    return array


def _values(data: bytes) -> np.ndarray[Any, Any]:
    try:
        nested = json.loads(data)
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from error
    try:
        return np.asarray(nested)
    except ValueError as error:
        raise ValueError("lists of the same depth must have the same length") from error


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a TensorSpec's dtype; strings are objects.

    Raises:
        ImportError: bfloat16 or float8 without the package ml_dtypes.
    """
    if name == "string":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:  # bfloat16, float8: numpy has no dtype of that name
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype
