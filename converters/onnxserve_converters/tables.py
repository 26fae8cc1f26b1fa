"""Reads samples from tables, CSV and Parquet, with pandas."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters.errors import BadRequest, one_line
from onnxserve_converters.inputs import InputSpec, numpy_dtype
from onnxserve_converters.samples import LABEL
from onnxserve_converters.sources.base import need


def read_table(path: Path, inputs: Sequence[InputSpec]) -> dict[str, Array]:
    """Return an array for each input, and one of the column "label", if it is there.

    An input [batch] or [batch,1] is the column of its name. The only input [batch,features] has the columns that the
    model names, or else all columns but "label", in their order. Missing numbers are NaN, and missing strings "".

    Raises:
        BadRequest: pandas is not installed, the file cannot be read, or its columns do not fit.
    """
    need("tables", "pandas", *(["pyarrow"] if path.suffix.lower() == ".parquet" else []))
    import pandas

    try:
        table = pandas.read_csv(path) if path.suffix.lower() == ".csv" else pandas.read_parquet(path)
    except Exception as error:  # pandas', pyarrow's and the file system's
        raise BadRequest(f"{path}: cannot be read as a table: {one_line(error)}") from error
    table.columns = [str(name) for name in table.columns]
    arrays = {spec.name: _array(path, spec, _columns(path, spec, table, alone=len(inputs) == 1)) for spec in inputs}
    if LABEL in table.columns and LABEL not in arrays:
        values = table[LABEL]
        arrays[LABEL] = values.to_numpy() if values.dtype.kind in "iub" else values.astype(object).to_numpy()
    return arrays


def _columns(path: Path, spec: InputSpec, table: Any, alone: bool) -> Any:
    """Return the part of a table that belongs to an input."""
    columns = [name for name in table.columns if name != LABEL]
    if len(spec.shape) not in (1, 2):
        raise BadRequest(f"{path}: a table has two axes, and the input is {spec}; give its samples as .npz")
    width = spec.shape[1] if len(spec.shape) == 2 else 1
    if width == 1 and spec.name in table.columns:
        return table[[spec.name]]
    wanted = list(spec.columns) or (columns if alone else [spec.name])
    if missing := [name for name in wanted if name not in table.columns]:
        raise BadRequest(f"{path}: column {missing[0]!r} is missing; the table has {', '.join(columns) or 'none'}")
    if len(wanted) != width:
        raise BadRequest(
            f"{path}: {len(wanted)} columns for {spec}; give one for each feature, and the right classes as {LABEL!r}"
        )
    return table[wanted]


def _array(path: Path, spec: InputSpec, part: Any) -> Array:
    """Return columns as an array of an input's dtype and number of axes."""
    missing = part.isna().to_numpy()
    try:
        if spec.dtype == "string":
            values = np.where(missing, "", part.astype(object).to_numpy())
            array = np.array([str(value) for value in values.ravel()], dtype=object).reshape(values.shape)
        else:
            dtype = numpy_dtype(spec.dtype)
            if missing.any() and dtype.kind != "f":
                raise ValueError("values are missing, which only floats and strings can be")
            given = part.astype(object).where(~missing, np.nan).to_numpy()
            array = given.astype(dtype)
            if dtype.kind != "f" and (array != given).any():
                raise ValueError("some values are not whole numbers that it has")
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"{path}: columns {', '.join(part.columns)} are not {spec.dtype}: {error}") from error
    return array if len(spec.shape) == 2 else array[:, 0]
