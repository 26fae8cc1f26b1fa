"""Inputs made up from a model's specs: the probe tries a model with them, and a loaded model is warmed up with them."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from onnxserve.tensor import STORAGE, STRING, Array, DataType
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.runtime.session import Session
from onnxserve_server.spec import InputRule, TensorSpec

_WARM_UP_BYTES = 64 << 20
_SAMPLE_BYTES = 256 << 20
NO_SAMPLE = f"inputs of one row take more than {_SAMPLE_BYTES >> 20} MiB, which is too much to try"
_FREE_SIZES = (8, 32, 224, 1)  # tried in turn for axes that are free and not the batch axis
_INTEGER_DTYPES = "iub"


def warm_up(session: Session, max_rows: int, rules: Sequence[InputRule]) -> str:
    """Run a loaded model with one row and with up to `max_rows`, so that its first caller does not wait for it.

    A sample that one of the `rules` holds for is left out.

    Returns:
        Why the last sample failed, if the model runs on none of them; "" once it has run.
    """
    failure = NO_SAMPLE
    for feeds in samples(session.inputs, 1):
        if any(rule.holds(feeds) for rule in rules):
            failure = "the inputs made up for it are such as it does not survive"
            continue
        try:
            run_sample(session, feeds)
            row_bytes = max(1, sum(array.nbytes for array in feeds.values()))
            rows = min(max_rows, _WARM_UP_BYTES // row_bytes)
            if rows > 1:
                run_sample(session, {spec.name: spec.repeat(feeds[spec.name], rows) for spec in session.inputs})
        except RunFailed as error:
            failure = str(error)
            continue
        return ""
    return failure


def samples(inputs: tuple[TensorSpec, ...], rows: int) -> Iterator[dict[str, Array]]:
    """Yield feeds of `rows` rows, the most telling first: several sizes of the free axes, ones before zeros.

    Those of more than 256 MiB are left out.
    """
    rng = np.random.default_rng(0)
    has_free_axes = any(spec.has_free_axes for spec in inputs)
    for size, ones in product(_FREE_SIZES if has_free_axes else (1,), (True, False)):
        if sum(_nbytes(spec, rows, size) for spec in inputs) > _SAMPLE_BYTES:
            continue
        if ones or any(_is_integer(spec) for spec in inputs):
            yield {spec.name: _sample(spec, rows, size, ones, rng) for spec in inputs}


def run_sample(session: Session, feeds: dict[str, Array]) -> dict[str, Array]:
    """Return all outputs of one run, by name; raises RunFailed."""
    names = [spec.name for spec in session.outputs]
    return dict(zip(names, session.run(feeds, names), strict=True))


def _is_integer(spec: TensorSpec) -> bool:
    return spec.data_type != STRING and STORAGE[spec.data_type].kind in _INTEGER_DTYPES


def _shape(spec: TensorSpec, rows: int, free: int) -> tuple[int, ...]:
    return spec.filled(rows, [free] * len(spec.shape))


def _nbytes(spec: TensorSpec, rows: int, free: int) -> int:
    item = 8 if spec.data_type == STRING else STORAGE[spec.data_type].itemsize
    return math.prod(_shape(spec, rows, free)) * item


def _sample(spec: TensorSpec, rows: int, free: int, ones: bool, rng: np.random.Generator) -> Array:
    shape = _shape(spec, rows, free)
    if spec.data_type == STRING:
        return rng.choice(np.array(["a", "b", "c"], dtype=object), shape)
    dtype = STORAGE[spec.data_type]
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if spec.data_type >= DataType.DATA_TYPE_BFLOAT16:
        return (rng.integers(0, 2, shape) * bits_of_one(spec.data_type)).astype(dtype)
    return rng.integers(0, 2 if ones else 1, shape).astype(dtype)


def bits_of_one(data_type: DataType) -> int:
    """Return the bits of a one, or of a small positive number, in a type that numpy does not have."""
    return 0x3F80 if data_type == DataType.DATA_TYPE_BFLOAT16 else 0x38
