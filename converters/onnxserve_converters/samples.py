"""Reads the caller's samples: .npz, .npy, CSV and Parquet."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters.errors import BadRequest, one_line
from onnxserve_converters.inputs import InputSpec

LABEL = "label"
"""The name of the array, or column, of right classes."""

FORMATS = ".npz, .npy, .csv or .parquet"

_PICKLED = (
    "it has pickled objects, which may be code; save strings as numpy.array(values, dtype=str), or a table as CSV"
)


def read_samples(path: Path, inputs: Sequence[InputSpec]) -> dict[str, Array]:
    """Return the arrays of a file, by name; there is one for each input, and there may be others.

    Args:
        path: an .npz file with an array for each input, an .npy file with that of the only one, or a table as
            tables.arrays_of() takes it.
        inputs: complete descriptions.

    Raises:
        BadRequest: the file cannot be read, or an input's array is missing.
    """
    read = _READERS.get(path.suffix.lower(), _read_npz)
    return read(path, inputs)


def _read_npz(path: Path, inputs: Sequence[InputSpec]) -> dict[str, Array]:
    loaded = _loaded(path, ".npz")
    if not isinstance(loaded, Mapping):
        cure = "save it with numpy.savez(file, name=array)"
        raise BadRequest(f"{path}: not a readable .npz file: one array without a name; {cure}")
    arrays = {name: _texts(array) for name, array in loaded.items()}
    missing = [spec.name for spec in inputs if spec.name not in arrays]
    if missing:
        raise BadRequest(f"{path}: array {missing[0]!r} is missing; the file has {', '.join(arrays) or 'none'}")
    return arrays


def _read_npy(path: Path, inputs: Sequence[InputSpec]) -> dict[str, Array]:
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise BadRequest(f"{path}: one array for {len(inputs)} inputs; give an .npz file with {names}")
    loaded = _loaded(path, ".npy")
    if isinstance(loaded, Mapping):
        raise BadRequest(f"{path}: not a readable .npy file: several arrays; name it .npz")
    return {inputs[0].name: _texts(loaded)}


def _loaded(path: Path, form: str) -> Any:
    """Return an array, or arrays by name."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # the file system's, numpy's, zipfile's and zlib's
        why = _PICKLED if "allow_pickle" in str(error) and path.is_file() and _is_numpy(path) else one_line(error)
        raise BadRequest(f"{path}: not a readable {form} file: {why}") from error


def _is_numpy(path: Path) -> bool:
    """Whether a file begins as numpy's do; it takes all others for pickles."""
    with path.open("rb") as file:
        return file.read(6).startswith((b"PK", b"\x93NUMPY"))


def _texts(array: Array) -> Array:
    return array.astype(object) if array.dtype.kind == "U" else array


def _read_table(path: Path, inputs: Sequence[InputSpec]) -> dict[str, Array]:
    from onnxserve_converters.tables import read_table

    return read_table(path, inputs)


_READERS: Mapping[str, Callable[[Path, Sequence[InputSpec]], dict[str, Array]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": _read_table,
    ".parquet": _read_table,
}
