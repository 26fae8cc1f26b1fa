"""Realistic values of a model's inputs, as its conversion left them in report.json beside the model file.

    {"check": {"ranges": {"ids": [0, 999]}, "rows": {"ids": [[5, 17, 3], [801, 2, 44]]}}}

`ranges` are the smallest and the largest value of an input; `rows` a few rows of each. Both may be missing. Then the
ranges are those that the conversion was asked to use: {"asked": {"ranges": ...}}.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxserve.tensor import STORAGE, STRING, Array, DataType
from onnxserve_server.runtime.draws import Hints
from onnxserve_server.runtime.session import Session
from onnxserve_server.spec import TensorSpec

_MAX_BYTES = 8 << 20
_LARGEST = float(np.finfo(np.float64).max)


def hints_of(session: Session) -> Hints:
    """Return what the conversion report of a loaded model says of its inputs."""
    return read_hints(report_of(session), session.inputs)


def report_of(session: Session) -> Path:
    """Return where the conversion report of a loaded model is, if it has one."""
    return Path(session.options.report or session.path.with_name("report.json"))


def read_hints(report: Path, inputs: Sequence[TensorSpec]) -> Hints:
    """Return what a conversion report says of a model's inputs; what does not fit them is left out."""
    check, asked = (_object(_object(_read(report)).get(key)) for key in ("check", "asked"))
    ranges, rows = _object(check.get("ranges") or asked.get("ranges")), _object(check.get("rows"))
    arrays = {spec.name: array for spec in inputs if (array := _rows(spec, rows.get(spec.name))) is not None}
    complete = all(spec.name in arrays for spec in inputs)
    return Hints(
        ranges={spec.name: limits for spec in inputs if (limits := _limits(spec, ranges.get(spec.name)))},
        rows=arrays if complete else {},
    )


def faults_of(report: Path, inputs: Sequence[TensorSpec]) -> list[str]:
    """Return what of a conversion report cannot be used, a sentence each: people write such files, too."""
    if not report.is_file():
        return []
    read = _read(report)
    if not isinstance(read, dict):
        return [f"not a JSON object of at most {_MAX_BYTES >> 20} MiB"]
    if not isinstance(check := read.get("check", {}), dict):
        return ["check: not an object"]
    faults = [f"check.{key}: only check.ranges and check.rows are known" for key in check if key not in _USES]
    for key, (use, form) in _USES.items():
        if not isinstance(given := check.get(key, {}), dict):
            faults.append(f"check.{key}: not an object with a value for each input")
            continue
        specs = {spec.name: spec for spec in inputs}
        for name, value in given.items():
            if name not in specs:
                faults.append(f"check.{key}.{name}: the model has no such input; it has {', '.join(specs)}")
            elif value != [] and use(specs[name], value) is None:  # [] is written where there are no finite numbers
                faults.append(f"check.{key}.{name}: not {form}")
    return faults


def _read(file: Path) -> object:
    try:
        if file.is_file() and file.stat().st_size <= _MAX_BYTES:
            return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):  # a report is not needed to serve a model
        pass
    return None


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _limits(spec: TensorSpec, value: object) -> tuple[float, float] | None:
    """Return the part of a range that an input's type has; None if there is none."""
    if not isinstance(value, list) or len(value) != 2 or not all(type(end) in (int, float) for end in value):
        return None
    if not _is_array(spec, "fiu") or not -_LARGEST <= value[0] <= value[1] <= _LARGEST:
        return None
    dtype: np.dtype[Any] = STORAGE[spec.data_type]
    if dtype.kind == "f":
        half = float(np.finfo(dtype).max) / 2  # numpy draws from no range that is wider than the largest number
        low, high = max(value[0], -half), min(value[1], half)
        return (low, high) if low <= high else None
    least, largest = max(math.ceil(value[0]), np.iinfo(dtype).min), min(math.floor(value[1]), np.iinfo(dtype).max)
    return (least, largest) if least <= largest else None


def _rows(spec: TensorSpec, value: object) -> Array | None:
    """Return rows as an array of the input's type, if they have its shape."""
    if not isinstance(value, list) or not (spec.data_type == STRING or _is_array(spec, "fiub")):
        return None
    try:
        array = np.array(value, object if spec.data_type == STRING else STORAGE[spec.data_type])
    except (ValueError, TypeError, OverflowError):
        return None
    fits = (
        array.ndim == len(spec.shape)
        and array.size
        and all(isinstance(size, str) or size == actual for size, actual in zip(spec.shape, array.shape, strict=False))
    )
    return array if fits else None


def _is_array(spec: TensorSpec, kinds: str) -> bool:
    """Whether numpy has an input's type, and it is one of these kinds."""
    numpy_has = spec.data_type < DataType.DATA_TYPE_BFLOAT16 and spec.data_type != STRING
    return numpy_has and STORAGE[spec.data_type].kind in kinds


_USES: Mapping[str, tuple[Callable[[TensorSpec, object], object], str]] = {
    "ranges": (_limits, "the smallest and the largest number of the input's type"),
    "rows": (_rows, "a list of rows of the input's type and shape"),
}
