"""Whether the rows of a model depend on each other, by trying: alone, together, permuted, with other neighbours."""

from dataclasses import dataclass

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from onnxserve_server.spec import TensorSpec

onnxruntime.set_default_logger_severity(4)
SIZES = {"time": 6, "keys": 7}


@dataclass(frozen=True)
class Draw:
    """How an input is made: the limit of its integers (or a range), and what its free axes measure."""

    limit: object = None
    scale: float = 1.0


def specs(model, axes=None):
    """Inputs and outputs as the server describes them; rows along the first axis, or along `axes` by name."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return [[_spec(value, axes or {}) for value in values] for values in (inputs, model.graph.output)]


def _spec(value, axes):
    shape = tuple(
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in value.type.tensor_type.shape.dim
    )
    axis = axes.get(value.name, 0)
    return TensorSpec(name=value.name, data_type=value.type.tensor_type.elem_type, shape=shape, batch_axis=axis)


def rows_of(value, spec, rows, *, draw, rng, sizes):
    """Values for one input."""
    shape = [_size(size, k, spec, rows, sizes) for k, size in enumerate(spec.shape)]
    elem = value.type.tensor_type.elem_type
    if elem == TensorProto.STRING:
        words = [f"word{n}" if n < 5 else f"{n} words" for n in rng.integers(0, 9, int(np.prod(shape)))]
        return np.array(words, object).reshape(shape)
    dtype = helper.tensor_dtype_to_np_dtype(elem)
    if dtype.kind in "iub":
        low, high = draw.limit if isinstance(draw.limit, tuple) else (0, 2 if dtype.kind == "b" else draw.limit or 5)
        return rng.integers(low, high, shape).astype(dtype)
    if draw.limit:
        return (rng.random(shape) * draw.limit).astype(dtype)
    return (rng.standard_normal(shape) * rng.choice([1.0, 3.0], shape) * draw.scale).astype(dtype)


def _size(size, k, spec, rows, sizes):
    if k == spec.batch_axis:
        return rows
    return size if isinstance(size, int) else sizes.get(size, SIZES.get(size, 6))


def witness(model, *, draws=None, axes=None, sizes=None, seeds=range(3), tolerance=2e-5, optimize=True):
    """A sentence that says which row changed with its neighbours; "" if none did. Raises if one row alone fails.

    `optimize`: as the server does. The optimizer of onnxruntime 1.31.1 ends the process on some graphs.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs, outputs = specs(model, axes=axes)
    declared = {value.name: value for value in model.graph.input}
    names = [spec.name for spec in outputs]
    for seed in seeds:
        rng = np.random.default_rng(seed)
        feeds = {spec.name: _drawn(declared[spec.name], spec, draws or {}, rng, sizes or {}) for spec in inputs}

        def run(order, feeds=feeds):
            picked = {spec.name: _take(feeds[spec.name], order, spec) for spec in inputs}
            return session.run(names, picked)

        alone = [run([i]) for i in range(5)]
        for order in ([0, 1], [2, 0, 1], [4, 3, 2, 1, 0], [0, 2, 4], [0, 0]):
            try:
                together = run(order)
            except Exception as error:
                return f"rows {order} do not run together: {str(error)[:150]}"
            for spec, rows, each in zip(outputs, together, zip(*[alone[i] for i in order], strict=True), strict=True):
                if problem := _compare(spec, rows, each, tolerance):
                    return f"seed {seed}, rows {order}, output {spec.name}: {problem}"
    return ""


def _drawn(value, spec, draws, rng, sizes):
    return rows_of(value, spec, 5, draw=draws.get(spec.name, Draw()), rng=rng, sizes=sizes)


def _take(array, order, spec):
    return array if spec.batch_axis is None else np.take(array, order, spec.batch_axis)


def _compare(spec, rows, solos, tolerance):
    """What differs between rows together, and each alone; "" if nothing does."""
    rows = np.asarray(rows)
    if spec.batch_axis is None or rows.ndim == 0:
        return "" if all(_same(rows, np.asarray(solo), tolerance) for solo in solos) else "it is not the same for all"
    if all(rows.shape == np.shape(solo) and _same(rows, np.asarray(solo), tolerance) for solo in solos):
        return ""  # constant
    if rows.shape[spec.batch_axis] != len(solos):
        return f"shape {list(rows.shape)}"
    for i, solo in enumerate(solos):
        row = np.take(rows, [i], spec.batch_axis)
        if row.shape != np.shape(solo):
            return f"row {i} has the shape {list(row.shape)}, alone {list(np.shape(solo))}"
        if not _same(row, np.asarray(solo), tolerance):
            return f"row {i} changed with its neighbours"
    return ""


def _same(row, solo, tolerance):
    if row.dtype.kind not in "fc":
        return np.array_equal(row, solo)
    scale = np.abs(solo[np.isfinite(solo)]).max(initial=1e-6) if solo.size else 1
    return np.allclose(row, solo, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
