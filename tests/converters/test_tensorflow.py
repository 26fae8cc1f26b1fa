"""SavedModels, and the Keras 2 files that only tf_keras reads, all the way into a repository and out of a server."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest

from support.converting import convert, request, same

BUILDER = Path(__file__).parents[1] / "support" / "tensorflow_models.py"

# The models with answers of their own.
SOURCES = {"scores": "scores", "recurrent": "recurrent", "attention": "attention.h5"}

# Loads one source after the other and prints the outcome of each: the inputs, or the error.
LOADER = """
import json, pickle, sys
from onnxserve_converters.errors import ConverterError
from onnxserve_converters.sources.tensorflow import load, load_keras2
for request in pickle.load(sys.stdin.buffer):
    try:
        model = load_keras2(request) if request.source.suffix == ".h5" else load(request, "saved_model")
    except ConverterError as error:
        print(json.dumps([type(error).__name__, str(error)]))
    else:
        print(json.dumps(["", " ".join(map(str, model.inputs))]))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder that tensorflow_models.py fills, and some broken ones."""
    folder = tmp_path_factory.mktemp("tensorflow")
    subprocess.run([sys.executable, BUILDER, folder], check=True, capture_output=True)
    (folder / "broken").mkdir()
    (folder / "broken" / "saved_model.pb").write_bytes(b"\x08\x01\x12\xff")
    shutil.copy(folder / "lambda.h5", folder / "disguised.h5")
    with h5py.File(folder / "disguised.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "Lambda":
                layer["config"]["function"] = layer["config"]["function"][0]  # bare bytecode, which tf_keras takes too
        file.attrs["model_config"] = json.dumps(config)
    with h5py.File(folder / "weights.h5", "w") as file:
        file.create_group("layer")
    return folder


class Converted:
    """A repository that a model is published in when it is first asked for."""

    def __init__(self, root, models):
        self.root, self._models, self._reports = root, models, {}

    def report(self, name):
        if name not in self._reports:
            self._reports[name] = convert(self._models / SOURCES[name], self.root / name).report
        return self._reports[name]

    def file(self, name):
        self.report(name)
        return self.root / name / "1" / "model.onnx"


@pytest.fixture(scope="module")
def converted(tmp_path_factory, models):
    return Converted(tmp_path_factory.mktemp("repository"), models)


@pytest.fixture(scope="module")
def outcomes(models):
    """The outcome of loading, by case: ("" or the class of the error, text)."""
    cases = {
        "two signatures": request(models / "two_signatures"),
        "no signature": request(models / "no_signature"),
        "a signature of another name": request(models / "renamed"),
        "no shape": request(models / "unranked"),
        "no shape, described": request(models / "unranked", "x=float32[rows,3]"),
        "free axes named": request(models / "recurrent", "steps=float32[rows,9,4]"),
        "a size contradicted": request(models / "recurrent", "steps=float32[rows,9,5]"),
        "a dtype contradicted": request(models / "scores", "x=float64[rows,3]"),
        "an unknown input": request(models / "scores", "y=float32[rows,3]"),
        "an opset too new": request(models / "scores", opset=20),
        "broken": request(models / "broken"),
        "code": request(models / "lambda.h5"),
        "disguised code": request(models / "disguised.h5"),
        "trusted code": request(models / "lambda.h5", trust_code=True),
        "weights alone": request(models / "weights.h5"),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADER], input=pickle.dumps(list(cases.values())), stdout=subprocess.PIPE, check=True
    )
    return dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", SOURCES)
def test_what_was_converted_serves_what_the_framework_answers(converted, models, serving, name):
    report = converted.report(name)
    with np.load(models / f"{name}.npz") as answers, serving(converted.root) as server:
        prediction = server.client.predict(name, {given: answers[given] for given in report["model"]["inputs"]})
        for output in report["model"]["outputs"]:
            assert same(np.asarray(prediction[output]), answers[output]), output


@pytest.mark.parametrize("name", SOURCES)
def test_requests_share_runs_of_what_was_converted(converted, name):
    assert converted.report(name)["proof"]["batchable"]


@pytest.mark.parametrize("name", SOURCES)
def test_no_path_of_the_source_is_left_in_the_file(converted, models, name):
    assert str(models).encode() not in converted.file(name).read_bytes()


def test_inputs_and_outputs_have_the_names_and_axes_of_the_signature(converted):
    model = converted.report("scores")["model"]
    assert model["inputs"] == {"x": {"dtype": "float32", "shape": ["batch", 3]}}
    assert model["outputs"] == {"hidden": {"shape": ["batch", 4]}, "probabilities": {"shape": ["batch", 2]}}


def test_free_axes_but_the_first_are_named_after_their_input(converted):
    assert converted.report("recurrent")["model"]["inputs"]["steps"]["shape"] == ["batch", "steps_1", 4]


def test_outputs_of_a_keras_model_stay_in_its_order(converted):
    assert list(converted.report("attention")["model"]["outputs"]) == ["wide", "narrow"]


def test_the_exact_gelu_is_written_with_operators_that_onnx_has(converted):
    ops = {node.op_type for node in onnx.load(converted.file("scores")).graph.node}
    assert "Erf" in ops and "Erfc" not in ops


def test_a_recurrent_layer_stays_one_node(converted):
    ops = [node.op_type for node in onnx.load(converted.file("recurrent")).graph.node]
    assert ops.count("LSTM") == 1


def test_the_report_says_which_frameworks_the_answers_are_from(converted):
    assert set(converted.report("scores")["versions"]) >= {"tensorflow", "tf2onnx"}
    report = converted.report("attention")
    assert "tf_keras" in report["versions"] and "tf_keras" in report["proof"]["reference"]


def test_a_table_of_words_goes_into_the_graph(models, tmp_path, serving):
    convert(models / "words", tmp_path / "words")
    with serving(tmp_path) as server:
        prediction = server.client.predict("words", {"word": np.array(["b", "unknown"], object)})
    assert np.asarray(prediction["number"]).tolist() == [2, -1]
    assert np.asarray(prediction["again"]).tolist() == ["b", "unknown"]


def test_a_static_signature_stays_static(models, tmp_path):
    report = convert(models / "static", tmp_path / "static", opset=15).report
    assert report["model"]["inputs"]["x"]["shape"] == [2, 3]
    assert report["model"]["opset"]["ai.onnx"] == 15
    assert not report["proof"]["batchable"]


@pytest.mark.parametrize(
    ("case", "inputs"),
    [
        ("a signature of another name", "x=float32[batch,3]"),
        ("no shape, described", "x=float32[rows,3]"),
        ("free axes named", "steps=float32[rows,9,4]"),
        ("trusted code", "tokens=float32[batch,tokens_1,8]"),
    ],
)
def test_a_source_loads_with_its_inputs_completed(outcomes, case, inputs):
    assert outcomes[case] == ["", inputs]


@pytest.mark.parametrize(
    ("case", "cure"),
    [
        ("two signatures", "several signatures: first, second; save the one to convert as serving_default"),
        ("no signature", "save it with one: tf.saved_model.save(..., signatures=...)"),
        ("no shape", "describe it with --input x=float32[...]"),
        ("a size contradicted", "declares steps=float32[?,?,4]"),
        ("a dtype contradicted", "declares x=float32[?,3]"),
        ("an unknown input", "unknown input; "),
        ("an opset too new", "--opset 20: tf2onnx supports at most 18"),
        ("broken", "TensorFlow cannot load it"),
        ("code", "--trust-code"),
        ("disguised code", "--trust-code"),
        ("weights alone", "weights without an architecture; save the whole model"),
    ],
)
def test_a_source_that_cannot_be_taken_is_refused_with_the_cure(outcomes, case, cure):
    kind, text = outcomes[case]
    assert kind == "BadRequest"
    assert cure in text
