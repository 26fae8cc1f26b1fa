"""LightGBM, XGBoost and CatBoost: pickles, pipelines and their own files, right on the rows of the training."""

import joblib
import numpy as np
import onnxruntime
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onnxserve_converters import pipeline
from onnxserve_converters.errors import BadRequest
from onnxserve_converters.sources.sklearn_export import rounded
from onnxserve_converters.sources.trees import load
from support import awkward
from support.converting import request

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries about names of columns

DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}


def classifier(library):
    package = pytest.importorskip(library)
    made = {
        "lightgbm": lambda: package.LGBMClassifier(n_estimators=10, verbose=-1),
        "xgboost": lambda: package.XGBClassifier(n_estimators=10),
        "catboost": lambda: package.CatBoostClassifier(iterations=10, verbose=0, allow_writing_files=False),
    }
    return made[library]()


def published(file, folder, trust_code):
    """The published model, and the report of its conversion."""
    report = pipeline.run(request(file, trust_code=trust_code), folder, lambda stage: None)["report"]
    return onnxruntime.InferenceSession(folder / "version" / "model.onnx"), report


def check(session, estimator, table):
    (spec,) = session.get_inputs()
    label, probabilities = session.run(None, {spec.name: table.astype(DTYPES[spec.type])})
    assert np.array_equal(label, np.ravel(estimator.predict(table)))
    assert np.allclose(probabilities, estimator.predict_proba(table), atol=1e-5)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
def test_an_estimator_with_gaps_is_right_on_the_rows_of_the_training(library, tmp_path):
    estimator = classifier(library).fit(awkward.GAPS, awkward.RARE)
    joblib.dump(estimator, tmp_path / "model.joblib")
    session, report = published(tmp_path / "model.joblib", tmp_path, True)
    check(session, estimator, awkward.GAPS)
    assert report["proof"]["reference"].lower().startswith(library)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
def test_in_a_pipeline_values_at_thresholds_go_the_same_way(library, tmp_path):
    estimator = make_pipeline(StandardScaler(), classifier(library)).fit(awkward.FULL, awkward.RARE)
    joblib.dump(estimator, tmp_path / "model.joblib")
    session, report = published(tmp_path / "model.joblib", tmp_path, True)
    check(session, estimator, awkward.FULL)
    assert report["notes"][0].startswith("tried with float32 inputs: the ONNX file does not match the model")


@pytest.mark.parametrize(
    ("library", "ending"), [("lightgbm", ".txt"), ("xgboost", ".json"), ("xgboost", ".ubj"), ("catboost", ".cbm")]
)
def test_a_file_of_the_library_itself_needs_no_trust(library, ending, tmp_path):
    estimator = classifier(library).fit(awkward.GAPS, awkward.RARE)
    file = tmp_path / f"model{ending}"
    (estimator.booster_ if library == "lightgbm" else estimator).save_model(str(file))
    session, report = published(file, tmp_path, False)
    check(session, estimator, awkward.GAPS)
    assert report["source"]["kind"] == library


@pytest.mark.parametrize(
    ("kind", "content"), [("lightgbm", b"tree\nversion=v4\n"), ("xgboost", b'{"learner":{}}'), ("catboost", b"CBM1")]
)
def test_a_damaged_file_is_refused_by_the_name_of_its_library(kind, content, tmp_path):
    pytest.importorskip(kind)
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(BadRequest, match=r"model: \w+ cannot load it"):
        load(request(tmp_path / "model"), kind)


def test_thresholds_of_float32_split_float32_values_as_those_of_float64():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=1000) * 10.0 ** rng.integers(-6, 7, 1000)
    made = np.asarray(rounded(exact, ["BRANCH_LEQ"] * 1000), np.float32)
    nearest = exact.astype(np.float32)
    for values in (nearest, np.nextafter(nearest, np.float32(np.inf)), np.nextafter(nearest, np.float32(-np.inf))):
        assert np.array_equal(values.astype(np.float64) <= exact, values <= made)
