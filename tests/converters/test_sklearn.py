"""scikit-learn: files into a repository and out of a server, and what skl2onnx makes of each kind of estimator."""

import pickle

import numpy as np
import onnxruntime
import pytest
import sklearn
from sklearn import cluster, datasets, decomposition, ensemble, linear_model, mixture, naive_bayes, neighbors, svm
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from onnxserve_converters.errors import BadRequest, ExportFailed
from onnxserve_converters.sources.sklearn import load
from support.converting import convert, request, same
from support.estimators import exported, saved

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # half trained does as well here
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # skl2onnx 1.20 reads what scikit-learn 1.9 deprecates
]

X, Y = datasets.load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]
TWO = Y > 0

PROBABILITIES = ("label", "probabilities")
CLASSIFIERS = {
    "logistic regression": (linear_model.LogisticRegression(), PROBABILITIES),
    "random forest": (ensemble.RandomForestClassifier(10, random_state=0), PROBABILITIES),
    "gradient boosting": (ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0), PROBABILITIES),
    "histogram boosting": (ensemble.HistGradientBoostingClassifier(max_iter=5), PROBABILITIES),
    "neural network": (MLPClassifier((8,), max_iter=20, random_state=0), PROBABILITIES),
    "nearest neighbours": (neighbors.KNeighborsClassifier(), PROBABILITIES),
    "naive Bayes": (naive_bayes.GaussianNB(), PROBABILITIES),
    "calibrated": (CalibratedClassifierCV(svm.LinearSVC()), PROBABILITIES),
    "search": (GridSearchCV(naive_bayes.GaussianNB(), {"var_smoothing": [1e-9, 1e-8]}, cv=2), PROBABILITIES),
    "support vectors": (svm.SVC(), ("label", "scores")),
    "linear support vectors": (svm.LinearSVC(), ("label", "scores")),
    "a pipeline of them": (make_pipeline(StandardScaler(), svm.LinearSVC()), ("label", "scores")),
    "ridge": (linear_model.RidgeClassifier(), ("label", "scores")),
}
OTHERS = {
    "linear regression": (linear_model.LinearRegression(), ("prediction",)),
    "boosted regression": (ensemble.GradientBoostingRegressor(n_estimators=5), ("prediction",)),
    "histogram regression": (ensemble.HistGradientBoostingRegressor(max_iter=5), ("prediction",)),
    "neural regression": (MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0), ("prediction",)),
    "k-means": (cluster.KMeans(3, n_init=1, random_state=0), ("label", "distances")),
    "scaled k-means": (
        make_pipeline(StandardScaler(), cluster.KMeans(3, n_init=1, random_state=0)),
        ("label", "distances"),
    ),
    "mixture": (mixture.GaussianMixture(2, random_state=0), ("label", "probabilities")),
    "isolation forest": (ensemble.IsolationForest(n_estimators=5, random_state=0), ("label", "scores")),
    "principal components": (decomposition.PCA(2), ("transformed",)),
}


@pytest.fixture
def frame():
    """A data frame with a number and a text, and classes."""
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"age": [1.0, 2.0, 3.0, 4.0] * 5, "city": ["x", "y", "x", "z"] * 5}), ["no", "yes"] * 10


def by_column(age, city):
    """A pipeline that takes a number and a text from two columns."""
    columns = [("number", StandardScaler(), [age]), ("text", OneHotEncoder(handle_unknown="ignore"), [city])]
    return make_pipeline(ColumnTransformer(columns), linear_model.LogisticRegression())


def test_a_pipeline_serves_its_classes_and_probabilities(tmp_path, serving):
    pipeline = make_pipeline(StandardScaler(), linear_model.LogisticRegression()).fit(X, NAMES)
    report = convert(saved(pipeline, tmp_path), tmp_path / "models" / "iris", trust_code=True).report
    assert report["model"]["inputs"] == {"features": {"dtype": "float32", "shape": ["batch", 4]}}
    assert report["proof"]["batchable"]
    assert set(report["versions"]) >= {"scikit-learn", "skl2onnx"}
    with serving(tmp_path / "models") as server:
        prediction = server.client.predict("iris", {"features": X[::10].astype(np.float32)})
        _, probabilities = server.client.model("iris").outputs
    assert np.array_equal(np.asarray(prediction["label"]), pipeline.predict(X[::10]))
    wanted = pipeline.predict_proba(X[::10]).astype(np.float32)
    assert same(np.asarray(prediction["probabilities"]), wanted)
    assert list(probabilities.labels) == ["setosa", "versicolor", "virginica"]


def test_columns_of_a_data_frame_become_inputs_of_their_own(tmp_path, frame, serving):
    table, classes = frame
    pipeline = by_column("age", "city").fit(table, classes)
    inputs = ("city=string[batch,1]", "age=float32[batch,1]")  # in another order than the frame
    convert(saved(pipeline, tmp_path), tmp_path / "models" / "people", *inputs, trust_code=True)
    with serving(tmp_path / "models") as server:
        columns = {"age": np.array([[1], [9]], np.float32), "city": np.array([["z"], ["unknown"]], object)}
        prediction = server.client.predict("people", columns)
    wanted = pipeline.predict_proba(type(table)({name: column[:, 0] for name, column in columns.items()}))
    assert same(np.asarray(prediction["probabilities"]), wanted.astype(np.float32))


def test_columns_of_mixed_types_are_put_together_without_a_data_frame(tmp_path, frame):
    table, classes = frame
    pipeline = by_column(0, 1).fit(table.to_numpy(object), classes)
    file = saved(pipeline, tmp_path)
    model = load(request(file, "a=float32[batch,1]", "b=string[batch,1]", trust_code=True), "sklearn")
    model.export(tmp_path / "model.onnx", None, None)
    columns = {"a": np.array([[1], [9]], np.float32), "b": np.array([["z"], ["unknown"]], object)}
    got = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, columns)
    assert all(same(one, other) for one, other in zip(got, model.run(columns).values(), strict=True))


@pytest.mark.parametrize(("estimator", "outputs"), CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_classifiers_do_in_onnx_what_they_do_in_scikit_learn(tmp_path, estimator, outputs):
    check(exported(estimator.fit(X, NAMES), tmp_path), outputs)


@pytest.mark.parametrize(("estimator", "outputs"), OTHERS.values(), ids=OTHERS)
def test_other_estimators_do_in_onnx_what_they_do_in_scikit_learn(tmp_path, estimator, outputs):
    check(exported(estimator.fit(X, Y), tmp_path), outputs)


def check(pair, outputs):
    model, session = pair
    assert model.inputs[0].shape == ("batch", 4)
    for rows in (1, 7):
        feeds = {"features": np.random.default_rng(rows).normal(size=(rows, 4)).astype(model.inputs[0].dtype)}
        wanted = model.run(feeds)
        assert tuple(wanted) == outputs
        for name, got in zip(outputs, session.run(None, feeds), strict=True):
            assert same(got, wanted[name]), name


def test_of_two_classes_without_probabilities_the_label_alone_is_given(tmp_path):
    model, session = exported(svm.SVC().fit(X, TWO), tmp_path)
    feeds = {"features": X.astype(np.float32)}
    (got,) = session.run(None, feeds)
    assert same(got, model.run(feeds)["label"])
    assert not model.labels


@pytest.mark.parametrize("classes", [Y, Y.astype(float), TWO], ids=["int", "float", "bool"])
def test_classes_that_are_whole_numbers_come_out_as_int64(tmp_path, classes):
    model, session = exported(linear_model.LogisticRegression().fit(X, classes), tmp_path)
    feeds = {"features": X.astype(np.float32)}
    label = model.run(feeds)["label"]
    assert label.dtype == np.int64
    assert same(session.run(None, feeds)[0], label)
    assert model.labels == {"probabilities": [str(each) for each in np.unique(classes)]}


def test_a_model_of_another_version_is_noted(tmp_path):
    file = saved(linear_model.LogisticRegression().fit(X, Y), tmp_path)
    version, other = sklearn.__version__, sklearn.__version__[:-1] + "0"
    assert version != other
    file.write_bytes(file.read_bytes().replace(version.encode(), other.encode()))
    model = load(request(file, trust_code=True), "sklearn")
    assert model.notes == [f"trained with scikit-learn {other}, but converted with {version}"]


def test_a_plain_pickle_is_read_as_well(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(linear_model.LogisticRegression().fit(X, Y)))
    assert load(request(tmp_path / "model.pkl", trust_code=True), "sklearn").notes == []


def test_a_file_is_not_opened_without_trust(tmp_path):
    file = tmp_path / "model.joblib"
    file.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "harmed").encode() + b"'\ntR.")
    with pytest.raises(BadRequest, match="--trust-code"):
        convert(file, tmp_path / "models" / "m")
    assert not (tmp_path / "harmed").exists()
    assert not (tmp_path / "models").exists()


def test_an_estimator_that_skl2onnx_does_not_know_ends_as_a_failed_export(tmp_path):
    model = load(request(saved(neighbors.NearestCentroid().fit(X, Y), tmp_path), trust_code=True), "sklearn")
    with pytest.raises(ExportFailed, match=r"skl2onnx could not export the model: .*NearestCentroid"):
        model.export(tmp_path / "model.onnx", None, None)


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({"weights": [1]}, "expected a scikit-learn estimator, got a dict"),
        (linear_model.LogisticRegression(), "the estimator is not trained"),
        (cluster.DBSCAN().fit(X), "a DBSCAN can neither predict nor transform new rows"),
    ],
    ids=["another object", "untrained", "no way to predict"],
)
def test_what_is_no_trained_estimator_is_refused(tmp_path, held, why):
    with pytest.raises(BadRequest, match=why):
        load(request(saved(held, tmp_path), trust_code=True), "sklearn")


@pytest.mark.parametrize("content", [b"", b"\x80\x05garbage", b"\x80\x05cno_such_module\nThing\n."])
def test_a_file_that_cannot_be_unpickled_is_refused(tmp_path, content):
    (tmp_path / "model.joblib").write_bytes(content)
    with pytest.raises(BadRequest, match=r"model.joblib: cannot be loaded: .*scikit-learn must fit it: \d"):
        load(request(tmp_path / "model.joblib", trust_code=True), "sklearn")


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ((), "describe its columns, which are age, city: --input name=float32"),
        (("age=float32[batch,1]",), "takes 2 columns, but 1 are described"),
        (("age=float32[batch,1]", "town=string[batch,1]"), "--input town: unknown column; .* has age, city"),
        (("age=int8[batch,1]", "city=string[batch,1]"), "of float32, float64, int64, string"),
        (("age=float32[batch]", "city=string[batch,1]"), "scikit-learn reads tables"),
    ],
)
def test_columns_must_be_described_as_they_are(tmp_path, frame, inputs, why):
    file = saved(by_column("age", "city").fit(*frame), tmp_path)
    with pytest.raises(BadRequest, match=why):
        load(request(file, *inputs, trust_code=True), "sklearn")
