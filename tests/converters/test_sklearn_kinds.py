"""Kinds of scikit-learn estimator on awkward tables: what is published is right on the rows of the training."""

import joblib
import numpy as np
import onnxruntime
import pytest
from sklearn.base import clone

from onnxserve_converters import pipeline
from onnxserve_converters.errors import ConverterError
from support import awkward
from support.converting import request

pytestmark = pytest.mark.filterwarnings("ignore")  # of half trained models, and of skl2onnx about scikit-learn 1.9

SAMPLE = (
    "random forest",
    "histogram boosting",
    "calibrated by steps",
    "one-hot strings",
    "strings with gaps",
    "k-means",
    "far column",
    "far forest",
)
NOT_PUBLISHED = {"calibrated by a sigmoid", "categories and boosting", "neighbours imputed by neighbours"}
DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(string)": object}


def published(name, folder):
    """The share of training rows on which the published model is wrong, by output; None if it is refused."""
    estimator, table, target = awkward.KINDS[name]
    estimator = clone(estimator).fit(table, target)
    joblib.dump(estimator, folder / "model.joblib")
    inputs = ()
    if table is awkward.FRAME:
        inputs = [f"{name}={'float32' if name in ('age', 'income') else 'string'}[batch,1]" for name in table.columns]
    elif table.dtype == object:
        inputs = ["city=string[batch,1]"]
    try:
        pipeline.run(request(folder / "model.joblib", *inputs, trust_code=True), folder, lambda stage: None)
    except ConverterError:
        return None
    return wrong(folder / "version" / "model.onnx", estimator, table)


def wrong(path, estimator, table):
    session = onnxruntime.InferenceSession(path)
    feeds = {}
    for spec in session.get_inputs():
        column = table[[spec.name]].to_numpy() if table is awkward.FRAME else table
        column = np.where(column == None, "", column) if spec.type == "tensor(string)" else column  # noqa: E711
        feeds[spec.name] = column.astype(DTYPES[spec.type])
    answers = {
        "label": "predict",
        "probabilities": "predict_proba",
        "prediction": "predict",
        "scores": "decision_function",
        "transformed": "transform",
        "distances": "transform",
    }
    shares = {}
    for spec, got in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        right = np.asarray(getattr(estimator, answers[spec.name])(table)).reshape(got.shape)
        if got.dtype.kind == "f":
            right = np.where(np.abs(got - right) <= 1e-4 * (np.abs(right).max() + 1e-2), got, right)
        same = got == right
        shares[spec.name] = (~same.reshape(len(got), -1).all(axis=1)).mean()
    return shares


@pytest.mark.parametrize("name", SAMPLE)
def test_what_is_published_is_right_on_the_rows_of_the_training(name, tmp_path):
    shares = published(name, tmp_path)
    assert shares is not None
    assert not any(shares.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in awkward.KINDS if name not in SAMPLE])
def test_nothing_wrong_is_published_and_few_kinds_are_refused(name, tmp_path):
    shares = published(name, tmp_path)
    assert (shares is None) == (name in NOT_PUBLISHED)
    assert not any((shares or {}).values())
