"""scikit-learn models of texts: words are split in ONNX as in scikit-learn, or the model is refused."""

import numpy as np
import pytest
from sklearn import decomposition, linear_model, naive_bayes
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from onnxserve_converters.errors import BadRequest, ExportFailed, NotProved
from onnxserve_converters.sources.sklearn import load
from support.converting import convert, request, same
from support.estimators import exported, saved

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # half trained does as well here
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # skl2onnx 1.20 reads what scikit-learn 1.9 deprecates
]

TEXTS = ["Good film, ein été", "a very good story", "I like it a lot", "lovely and good", "such a day"]
TEXTS += ["bad film", "a very bad story", "I don't like it, at all", "Größerer ÄRGER und mehr"]
MOODS = ["good"] * 5 + ["bad"] * 4
ODD_TEXTS = ["", "?", "a", "GRÖSSERER ärger... film-story", "I'd like  a\tgood été", "Étés 2.0", "very very GOOD"]


@pytest.mark.parametrize("described", [(), ("text=string[batch]",), ("words=string[n,1]",)])
def test_a_pipeline_that_begins_with_a_vectorizer_serves_texts(tmp_path, serving, described):
    pipeline = make_pipeline(TfidfVectorizer(), linear_model.LogisticRegression()).fit(TEXTS, MOODS)
    report = convert(saved(pipeline, tmp_path), tmp_path / "models" / "mood", *described, trust_code=True).report
    assert report["proof"]["rows"]["verdict"] == "independent"  # although each is filled up to the longest of all
    assert report["proof"]["batchable"]
    ((name, declared),) = report["model"]["inputs"].items()
    texts = np.array(ODD_TEXTS, object).reshape(-1, *declared["shape"][1:])
    with serving(tmp_path / "models") as server:
        prediction = server.client.predict("mood", {name: texts})
    assert same(np.asarray(prediction["probabilities"]), pipeline.predict_proba(ODD_TEXTS).astype(np.float32))


VECTORIZERS = {
    "counts": CountVectorizer(),
    "in either case": CountVectorizer(lowercase=False),
    "pairs of words": CountVectorizer(ngram_range=(1, 2)),
    "without some": CountVectorizer(stop_words=["a", "and", "very"]),
    "in two steps": make_pipeline(CountVectorizer(binary=True), TfidfTransformer()),
    "side by side": make_union(TfidfVectorizer(), CountVectorizer(max_features=3)),
    "reduced": make_pipeline(TfidfVectorizer(), decomposition.TruncatedSVD(2, random_state=0)),
    "searched": GridSearchCV(
        make_pipeline(TfidfVectorizer(), linear_model.LogisticRegression()), {"logisticregression__C": [1, 2]}, cv=2
    ),
}


@pytest.mark.parametrize("vectorizer", VECTORIZERS.values(), ids=VECTORIZERS)
def test_vectorizers_do_in_onnx_what_they_do_in_scikit_learn(tmp_path, vectorizer):
    model, session = exported(vectorizer.fit(TEXTS, MOODS), tmp_path)
    feeds = {"text": np.array(TEXTS + ODD_TEXTS, object)}
    wanted = model.run(feeds)
    for got, name in zip(session.run(None, feeds), wanted, strict=True):
        assert same(got, wanted[name]), name


def test_the_proof_of_a_text_model_is_made_with_words_that_it_knows(tmp_path):
    pipeline = make_pipeline(TfidfVectorizer(sublinear_tf=True), linear_model.LogisticRegression()).fit(TEXTS, MOODS)
    with pytest.raises(NotProved, match="the ONNX file does not match the model"):
        convert(saved(pipeline, tmp_path), tmp_path / "models" / "mood", trust_code=True)


def test_a_vectorizer_that_skl2onnx_does_not_know_ends_as_a_failed_export(tmp_path):
    pipeline = make_pipeline(HashingVectorizer(), linear_model.LogisticRegression()).fit(TEXTS, MOODS)
    with pytest.raises(ExportFailed, match="HashingVectorizer"):
        convert(saved(pipeline, tmp_path), tmp_path / "models" / "mood", trust_code=True)


@pytest.mark.parametrize(
    "inputs",
    [("text=float32[batch,1]",), ("text=string[batch,2]",), ("a=string[batch]", "b=string[batch]")],
    ids=["numbers", "two columns", "two inputs"],
)
def test_texts_are_described_by_one_input_of_one_string_a_row(tmp_path, inputs):
    file = saved(make_pipeline(CountVectorizer(), naive_bayes.MultinomialNB()).fit(TEXTS, MOODS), tmp_path)
    with pytest.raises(BadRequest, match=r"reads texts, one a row; expected one input, text=string\[batch\]"):
        load(request(file, *inputs, trust_code=True), "sklearn")


def test_stop_words_between_groups_of_words_are_refused(tmp_path):
    file = saved(CountVectorizer(ngram_range=(1, 2), stop_words=["very"]).fit(TEXTS), tmp_path)
    with pytest.raises(BadRequest, match=r"has both stop_words and ngram_range=\(1, 2\)"):
        load(request(file, trust_code=True), "sklearn")


def test_a_column_of_texts_beside_another_is_split_into_words_as_well(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"age": np.arange(9.0), "said": TEXTS})
    columns = ColumnTransformer([("number", StandardScaler(), ["age"]), ("text", TfidfVectorizer(), "said")])
    pipeline = make_pipeline(columns, linear_model.LogisticRegression()).fit(table, MOODS)
    inputs = ("age=float32[batch,1]", "said=string[batch,1]")
    report = convert(saved(pipeline, tmp_path), tmp_path / "models" / "m", *inputs, trust_code=True).report
    assert report["proof"]["batchable"]
