"""The requests of a measurement: the caller's inputs, and made-up values for inputs that the caller did not give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxserve._call import PredictCall
from onnxserve._inputs import InputError, dtype_of
from onnxserve._models import TensorSpec
from onnxserve._wire import predict_request
from onnxserve.tensor import Array

_SEED = 0
_MADE_UP = 16  # different requests of made-up values
_MAX_CUT = 1024  # requests cut from the caller's inputs
_MAX_BYTES = 64 << 20  # of all requests together

Inputs = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Requests that are sent in turn, again and again.

    Attributes:
        requests: the inputs of each request. All have the same shapes.
        rows: the rows of each request; 1 if the model has no axis for rows.
        made_up: the names of the inputs whose values are made up.
    """

    requests: tuple[Inputs, ...]
    rows: int
    made_up: tuple[str, ...]

    def messages(
        self, model: str, *, outputs: Sequence[str] | None, version: str | None, timeout: float | None
    ) -> list[bytes]:
        """Return each request as a serialized PredictRequest, with `timeout` in seconds."""
        return [
            predict_request(
                PredictCall(model=model, inputs=inputs, outputs=outputs, version=version), "", message_timeout=timeout
            )
            for inputs in self.requests
        ]


def make(specs: Sequence[TensorSpec], given: Inputs, *, rows: int | None, sizes: Mapping[str, int]) -> Workload:
    """Return a workload for a model.

    Made-up floats are from 0 to 1; integers are 0 or 1, which are valid ids and masks of any model; strings are "a",
    "b" or "c". Requests differ, except in inputs without rows: requests share a run only if these are equal.

    Args:
        specs: the model's inputs.
        given: the caller's arrays for some or all inputs.
        rows: the rows of each request, cut from the given arrays; None: the given arrays are sent whole, and made-up
            requests have one row if no array is given.
        sizes: the sizes of further free axes of made-up inputs, by name; an axis without a name is called input.number.

    Raises:
        InputError: a size is missing, or names an unknown axis, or the given arrays cannot be cut.
    """
    made_up = [spec for spec in specs if spec.name not in given and not spec.optional]
    _check_sizes(sizes, specs, made_up)
    given_rows = _rows_of(specs, given)
    if rows is not None and given_rows is None and not any(_row_axis(spec) for spec in made_up):
        raise InputError(f"--rows {rows}: no input of the model has a free axis for rows")
    if rows is not None and given_rows is not None and rows > given_rows:
        raise InputError(f"--rows {rows}: the arrays given with --input have {given_rows} rows")
    sent = rows or given_rows or 1
    shapes = _shapes(made_up, specs, given, sizes, sent)
    pieces = min(given_rows // sent, _MAX_CUT) if given_rows else 1
    rng = np.random.default_rng(_SEED)
    shared = {spec.name: _draw(spec, shapes[spec.name], rng) for spec in made_up if spec.batch_axis is None}
    requests: list[Inputs] = []
    number = pieces if pieces > 1 or len(shared) == len(made_up) else _MADE_UP
    while len(requests) < number:
        inputs = _cut(specs, given, sent, len(requests) % pieces) if given_rows else dict(given)
        drawn = {spec.name: _draw(spec, shapes[spec.name], rng) for spec in made_up if spec.name not in shared}
        requests.append({**inputs, **shared, **drawn})
        number = min(number, max(1, _MAX_BYTES // max(1, _nbytes(requests[0]))))
    return Workload(requests=tuple(requests), rows=sent, made_up=tuple(spec.name for spec in made_up))


def _axis_name(spec: TensorSpec, axis: int) -> str | None:
    """Return the name of a free axis; None for a fixed one."""
    size = spec.shape[axis]
    return None if isinstance(size, int) else size or f"{spec.name}.{axis}"


def _row_axis(spec: TensorSpec) -> str | None:
    """Return the name of the axis along which rows lie; None if it is fixed, or there is none."""
    if spec.batch_axis is None or spec.batch_axis >= len(spec.shape):
        return None
    return _axis_name(spec, spec.batch_axis)


def _check_sizes(sizes: Mapping[str, int], specs: Sequence[TensorSpec], made_up: Sequence[TensorSpec]) -> None:
    rows = {_row_axis(spec) for spec in specs}
    free = {_axis_name(spec, axis) for spec in made_up for axis in range(len(spec.shape))} - rows - {None}
    for axis, size in sizes.items():
        if axis in rows:
            raise InputError(f"--size {axis}={size}: {axis} is the axis of rows; use --rows {size}")
        if axis not in free:
            names = ", ".join(sorted(filter(None, free))) or "none"
            raise InputError(f"--size {axis}={size}: unknown axis; the free axes of made-up inputs are: {names}")


def _rows_of(specs: Sequence[TensorSpec], given: Inputs) -> int | None:
    """Return the number of rows of the given arrays; None if none of them has an axis for rows."""
    rows: dict[str, int] = {}
    for spec in specs:
        array = given.get(spec.name)
        if array is not None and spec.batch_axis is not None and _row_axis(spec) and array.ndim > spec.batch_axis:
            rows[spec.name] = array.shape[spec.batch_axis]
    if len(set(rows.values())) > 1:
        raise InputError(
            "the arrays given with --input differ in their number of rows: "
            + ", ".join(f"{name} has {number}" for name, number in rows.items())
        )
    return next(iter(rows.values()), None)


def _shapes(
    made_up: Sequence[TensorSpec],
    specs: Sequence[TensorSpec],
    given: Inputs,
    sizes: Mapping[str, int],
    rows: int,
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each made-up input. Axes that given arrays share have the size that they have there."""
    known: dict[str | None, int] = {}
    for spec in specs:
        if spec.name in given and given[spec.name].ndim == len(spec.shape):
            known |= {_axis_name(spec, axis): size for axis, size in enumerate(given[spec.name].shape)}
    known.update(sizes)
    known |= {_row_axis(spec): rows for spec in specs}
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in made_up:
        if spec.any_shape:
            raise InputError(f"input {spec.name}: the model declares no shape for it; give it with --input")
        shape: list[int] = []
        for axis, fixed in enumerate(spec.shape):
            name = _axis_name(spec, axis)
            if name is not None and name not in known:
                raise InputError(
                    f"input {spec.name}: the size of axis {name} is free; set it, such as --size {name}=16, "
                    f"or give the input with --input"
                )
            shape.append(fixed if isinstance(fixed, int) else known[name])
        shapes[spec.name] = tuple(shape)
    return shapes


def _cut(specs: Sequence[TensorSpec], given: Inputs, rows: int, number: int) -> dict[str, Array]:
    """Return the given arrays, cut to the piece with a number, of so many rows."""
    axes = {spec.name: spec.batch_axis for spec in specs if _row_axis(spec) is not None}
    cut = {}
    for name, array in given.items():
        axis = axes.get(name)
        if axis is None or array.ndim <= axis:
            cut[name] = array
        else:
            cut[name] = array[(*[slice(None)] * axis, slice(number * rows, (number + 1) * rows))]
    return cut


def _draw(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if spec.dtype == "string":
        return np.asarray(rng.choice(np.array(["a", "b", "c"], dtype=object), shape), dtype=object)
    try:
        dtype = dtype_of(spec.dtype)
    except ImportError as error:
        raise InputError(f"input {spec.name}: {spec.dtype} needs the package ml_dtypes: {error}") from error
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    return np.asarray(rng.random(shape), dtype)


def _nbytes(inputs: Inputs) -> int:
    """Return the approximate size of a request in bytes; a character of a string counts as one."""
    return sum(
        sum(map(len, array.ravel().tolist())) if array.dtype.kind in "OUST" else array.nbytes
        for array in inputs.values()
    )


def shapes_of(inputs: Inputs) -> dict[str, str]:
    """Return the dtype and shape of each input, such as float32[1, 3]."""
    names = {name: "string" if array.dtype.kind in "OUST" else array.dtype.name for name, array in inputs.items()}
    return {name: f"{dtype}[{', '.join(map(str, inputs[name].shape))}]" for name, dtype in names.items()}
