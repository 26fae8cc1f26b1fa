"""Writes scikit-learn estimators to files, and exports them."""

import joblib
import onnxruntime

from onnxserve_converters.cases import Cases
from onnxserve_converters.sources.sklearn import load
from support.converting import request


def saved(estimator, folder, name="model.joblib"):
    joblib.dump(estimator, folder / name)
    return folder / name


def exported(estimator, folder):
    """An estimator as our model of it, and its ONNX file, loaded."""
    model = load(request(saved(estimator, folder), trust_code=True), "sklearn")
    model.export(folder / "model.onnx", Cases(model.inputs, {}, {}, None).example(), None)
    return model, onnxruntime.InferenceSession(folder / "model.onnx")
