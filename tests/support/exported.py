"""Exports as people make them, for the analysis of rows: each with its inputs' draws and what its rows do."""

import contextlib
import io
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization

from support.brute_force import SIZES, Draw

INT = "int"
FAILING = {("spectrum", False), ("experts", True), ("time first", True)}  # that torch 2.13 cannot export


@dataclass(frozen=True)
class Export:
    """One model. `axes`: where its rows lie, by input and output, if not along the first axis."""

    name: str
    model: onnx.ModelProto
    draws: dict = field(default_factory=dict)
    axes: dict | None = None


def networks(table, dynamo, names=None):
    """PyTorch networks of exported_nets, by the old exporter or the new one."""
    for name, (make, inputs) in table.items():
        if (names is None or name in names) and (name, dynamo) not in FAILING:
            model = _exported(make(), inputs, dynamo)
            draws = {
                f"x{k}": Draw(limit[0] if limit else 11) for k, (kind, _, *limit) in enumerate(inputs) if kind == INT
            }
            yield Export(f"{name}, {'dynamo' if dynamo else 'TorchScript'}", model, draws)


def _exported(module, inputs, dynamo):
    """The module as ONNX; its inputs are x0, x1 and so on, its outputs y0, y1."""
    import torch

    arrays = [_example(torch, *given) for given in inputs]
    names = [f"x{k}" for k in range(len(inputs))]
    free = [{k: axis for k, axis in enumerate(axes) if isinstance(axis, str)} for _, axes, *_ in inputs]
    with torch.no_grad():
        outputs = module(*arrays)
    count = len(outputs) if isinstance(outputs, tuple) else 1
    results = [f"y{k}" for k in range(count)]
    with tempfile.TemporaryDirectory() as folder, _silent():
        path = Path(folder) / "model.onnx"
        if dynamo:
            shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in free)
            torch.onnx.export(
                module, tuple(arrays), str(path), dynamo=True, input_names=names, output_names=results,
                dynamic_shapes=(shapes,), verbose=False, external_data=False,
            )  # fmt: skip
        else:
            dynamic = dict(zip(names, free, strict=True)) | {name: {0: "batch"} for name in results}
            torch.onnx.export(
                module, tuple(arrays), str(path), dynamo=False, input_names=names, output_names=results,
                dynamic_axes=dynamic, opset_version=17,
            )  # fmt: skip
        model = onnx.load(path)
    for value, axes in zip(model.graph.input, free, strict=True):
        for k, axis in axes.items():
            value.type.tensor_type.shape.dim[k].dim_param = axis
    return model


def _example(torch, kind, axes, limit=11):
    shape = [3 if axis == "batch" else SIZES.get(axis, axis) for axis in axes]
    low, high = limit if isinstance(limit, tuple) else (0, limit)
    return torch.randint(low, high, shape) if kind == INT else torch.randn(shape)


@contextlib.contextmanager
def _silent():
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def quantized(exports):
    """The same to int8: with scales that are computed in each run, and with fixed ones, in both formats."""
    for each in exports:
        for kind in ("dynamic", "QDQ", "QOperator"):
            with tempfile.TemporaryDirectory() as folder, _silent():
                source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
                onnx.save(each.model, source)
                if kind == "dynamic":
                    quantization.quantize_dynamic(source, target)
                else:
                    form = quantization.QuantFormat[kind]
                    quantization.quantize_static(source, target, _Samples(each), quant_format=form)
                yield Export(f"{each.name}, int8 {kind}", onnx.load(target), each.draws)


class _Samples(quantization.CalibrationDataReader):
    """Three batches of made-up rows."""

    def __init__(self, export):
        from support.brute_force import rows_of, specs

        declared = {value.name: value for value in export.model.graph.input}
        rng = np.random.default_rng(0)
        inputs, _ = specs(export.model)
        self.left = [
            {
                s.name: rows_of(declared[s.name], s, 4, draw=export.draws.get(s.name, Draw()), rng=rng, sizes={})
                for s in inputs
            }
            for _ in range(3)
        ]

    def get_next(self):
        return self.left.pop() if self.left else None


def optimized(exports):
    """The same as ONNX Runtime fuses it: with operators of com.microsoft."""
    for each in exports:
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.optimized_model_filepath = str(Path(folder) / "fused.onnx")
            onnxruntime.InferenceSession(each.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            yield Export(f"{each.name}, fused", onnx.load(options.optimized_model_filepath), each.draws)


def estimators():
    """Estimators of scikit-learn."""
    from skl2onnx import to_onnx
    from sklearn import (
        cluster,
        ensemble,
        linear_model,
        naive_bayes,
        neighbors,
        neural_network,
        pipeline,
        preprocessing,
        svm,
    )

    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int) + (x[:, 2] > 0.8)
    made = (
        linear_model.LogisticRegression(), linear_model.Ridge(), ensemble.RandomForestClassifier(5, random_state=0),
        ensemble.GradientBoostingRegressor(n_estimators=5),
        svm.SVC(probability=False), neighbors.KNeighborsClassifier(3), naive_bayes.GaussianNB(),
        neural_network.MLPClassifier((5,), max_iter=20), cluster.KMeans(3, n_init=1, random_state=0),
        ensemble.IsolationForest(n_estimators=5, random_state=0),
        pipeline.make_pipeline(preprocessing.PolynomialFeatures(2), preprocessing.StandardScaler(), linear_model.LogisticRegression()),
    )  # fmt: skip
    for estimator in made:
        with _silent():
            estimator.fit(x, y)
            options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
            model = to_onnx(estimator, x[:1], options=options, target_opset={"": 18, "ai.onnx.ml": 3})
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        steps = getattr(estimator, "steps", [("", estimator)])
        yield Export(" ".join(type(step).__name__ for _, step in steps), model)


def voice():
    """silero-vad, a recurrent network with branches for two sampling rates; its state has its rows along axis 1."""
    import silero_vad

    model = onnx.load(Path(silero_vad.__file__).parent / "data/silero_vad.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "sound"
    axes = {"sr": None, "state": 1, "stateN": 1}
    return Export("silero-vad", model, {"sr": Draw((16000, 16001))}, axes)
