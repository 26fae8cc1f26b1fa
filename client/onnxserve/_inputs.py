"""Files to input arrays."""

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
"""What read_inputs() takes, for the help of an option."""

_NPY_MAGIC = b"\x93NUMPY"
# The kinds of arrays that JSON values may come as, for each kind of dtype, where none of them would be changed.
_JSON_KINDS = {"f": "fiu", "V": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "UO"}


class InputError(Exception):
    """An --input that cannot be used; its text says why."""


def read_inputs(arguments: Sequence[str], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Read every `name=file`.

    Args:
        arguments: of the command line: `name=x.npy`, `name=x.npz`, `name=x.npz:key`, `name=x.json`, `name=-`,
            which is JSON or npy from stdin, or `name=[...]`, which is JSON itself.
        specs: the model's inputs; they give JSON its dtypes. Arrays of files keep their own.

    Raises:
        InputError: an argument is malformed, its file unreadable or not what it should be.
    """
    by_name = {spec.name: spec for spec in specs}
    arrays: dict[str, Array] = {}
    for argument in arguments:
        name, equals, source = argument.partition("=")
        if not (name and equals and source):
            raise InputError(f"{argument!r} is not name=file")
        try:
            arrays[name] = _read(name, source, by_name)
        except (OSError, ValueError, KeyError, EOFError, ImportError) as error:
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
    raise ValueError("not a .npy, .npz or .json file, and no JSON in brackets")


def _npy(data: bytes) -> Array:
    array: Array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return array


def _npz(path: Path, key: str | None, name: str) -> Array:
    """Return an archive's array `key`; without one the array called as the input, or the archive's only one."""
    with np.load(path, allow_pickle=False) as archive:
        if key is None:
            key = name if name in archive.files or len(archive.files) != 1 else archive.files[0]
        if key not in archive.files:
            raise ValueError(f"it has no array {key!r}; it has {', '.join(archive.files) or 'none'}")
        array: Array = archive[key]
    return array


def _json(name: str, data: bytes, specs: dict[str, TensorSpec]) -> Array:
    spec = specs.get(name)
    if spec is None:
        raise ValueError(f"the model has no such input, so its dtype is unknown; it has {', '.join(specs) or 'none'}")
    values = np.asarray(json.loads(data))
    dtype = dtype_of(spec.dtype)
    if values.size and values.dtype.kind not in _JSON_KINDS[dtype.kind]:
        raise ValueError(f"the input is {spec.dtype}, and these values are not")
    array: Array = values.astype(dtype)
    # A whole number must come back the same; a decimal fraction is rounded to the dtype's precision, as ever.
    if values.dtype.kind in "iu" and dtype.kind in "iu" and not np.array_equal(array, values):
        raise ValueError(f"a value is out of the range of {spec.dtype}")
    return array


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of a TensorSpec; that of objects for strings.

    Raises:
        ImportError: a bfloat16 or float8 without the package ml_dtypes.
    """
    if name == "string":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:  # bfloat16, float8: numpy has no dtype of that name
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype
