"""Keras models of every form, all the way into a repository and out of a server."""

import collections
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxserve_converters.conversion import run
from onnxserve_converters.errors import ExportFailed
from support.converting import convert, request, same

pytestmark = pytest.mark.timeout(300)

SIDES = ("left=float32[batch,4]", "right=float32[batch,6]")


class Converted:
    """A repository that a model is published in when it is first asked for."""

    def __init__(self, root, keras_files, keras2_files):
        self.root, self._reports = root, {}
        self._sources = {
            "dense": (request(keras_files / "dense.keras"), keras_files / "dense.npz"),
            "softmax": (
                request(keras_files / "softmax.keras", class_path="support.keras_nets:Softmax"),
                keras_files / "softmax.npz",
            ),
            "image": (request(keras_files / "image.h5"), keras_files / "image.npz"),
            "pair": (
                request(keras_files / "pair.json", weights=keras_files / "pair.weights.h5"),
                keras_files / "pair.npz",
            ),
            "in_memory": (
                request(keras_files / "in_memory" / "model.keras", *SIDES, in_memory=True),
                keras_files / "gates.npz",
            ),
            "recurrent": (request(keras_files / "recurrent.keras"), keras_files / "recurrent.npz"),
            "scanned": (request(keras_files / "scanned.keras"), keras_files / "scanned.npz"),
            "block": (
                request(keras_files / "block.keras", "tokens=float32[batch,time,8]", "mask=bool[batch,time]"),
                keras_files / "block.npz",
            ),
            "recurrent_2": (request(keras2_files / "recurrent.h5"), keras2_files / "recurrent.npz"),
            "block_2": (
                request(
                    keras2_files / "block.json",
                    "tokens=float32[batch,time,8]",
                    "padding=bool[batch,time,time]",
                    weights=keras2_files / "block.w.h5",
                ),
                keras2_files / "block.npz",
            ),
        }

    def answers(self, name):
        with np.load(self._sources[name][1]) as arrays:
            return dict(arrays)

    def report(self, name):
        if name not in self._reports:
            self._reports[name] = run(self._sources[name][0], self.root / name).report
        return self._reports[name]

    def operators(self, name):
        """How many nodes of each kind the graph has."""
        self.report(name)
        return collections.Counter(node.op_type for node in onnx.load(self.root / name / "1" / "model.onnx").graph.node)


SLOW = ("scanned", "recurrent_2")  # torch takes seconds for each LSTM and each scan; "recurrent" is the sample
CONVERTED = [
    *("dense", "softmax", "image", "pair", "in_memory", "block", "block_2", "recurrent"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory, keras_files, keras2_files):
    return Converted(tmp_path_factory.mktemp("repository"), keras_files, keras2_files)


@pytest.mark.parametrize("name", CONVERTED)
def test_what_was_converted_serves_what_keras_answers(converted, serving, name):
    report, answers = converted.report(name), converted.answers(name)
    with serving(converted.root) as server:
        prediction = server.client.predict(name, {given: answers[given] for given in report["model"]["inputs"]})
    for output in report["model"]["outputs"]:
        assert same(np.asarray(prediction[output]), answers[output], 1e-5), output


@pytest.mark.parametrize("name", CONVERTED)
def test_requests_share_runs_of_what_was_converted(converted, name):
    assert converted.report(name)["proof"]["batchable"]


def test_inputs_and_outputs_have_the_names_that_keras_has_for_them(converted):
    model = converted.report("pair")["model"]
    assert set(model["inputs"]) == {"a", "b"}
    assert set(model["outputs"]) == {"p", "q"}
    assert set(converted.report("image")["model"]["outputs"]) == {"scores"}
    assert set(converted.report("softmax")["model"]["inputs"]) == {"x"}


def test_lengths_stay_free(converted):
    model = converted.report("recurrent")["model"]
    assert model["inputs"]["x"]["shape"] == ["batch", "x_1", 4]
    assert model["outputs"]["steps"]["shape"] == ["batch", "x_1", 2]
    block = converted.report("block")["model"]
    assert block["outputs"]["encoded"]["shape"] == ["batch", "time", 8]


def test_lstm_and_gru_are_one_node_each(converted):
    operators = converted.operators("recurrent")
    assert (operators["LSTM"], operators["GRU"]) == (3, 1)  # a bidirectional layer is two
    assert not operators["Scan"] and not operators["Loop"]


@pytest.mark.slow
def test_every_other_recurrent_layer_is_one_scan(converted):
    operators = converted.operators("scanned")
    assert operators["Scan"] == 6
    assert not operators["Tanh"]


def test_the_exact_gelu_is_written_with_operators_that_onnx_has(converted):
    operators = converted.operators("block")
    assert operators["Gelu"] or operators["Erf"]


def test_the_report_says_what_the_answers_are_from(converted):
    report = converted.report("dense")
    assert report["source"]["kind"] == "keras"
    assert report["proof"]["reference"].startswith("Keras 3.15")
    assert {"keras", "torch"} <= set(report["versions"])
    assert converted.report("in_memory")["source"]["kind"] == "live_keras"
    assert converted.report("pair")["source"]["weights"] == "pair.weights.h5"


@pytest.mark.slow
def test_the_hard_sigmoid_of_keras_2_is_kept_and_noted(converted):
    notes = converted.report("recurrent_2")["notes"]
    assert any("hard_sigmoid" in note for note in notes)
    assert any("written by Keras 2" in note for note in notes)


def test_a_real_file_of_keras_2_is_converted(tmp_path):
    [package] = importlib.util.find_spec("cifar_10_model").submodule_search_locations
    report = convert(
        Path(package, "trained_models", "cnn_model.h5"), tmp_path / "cifar", "image=float32[batch,32,32,3]"
    ).report
    assert report["model"]["inputs"] == {"image": {"dtype": "float32", "shape": ["batch", 32, 32, 3]}}
    assert max(row["error"] for row in report["proof"]["parity"]) <= 8e-6


def test_a_recurrent_layer_that_cannot_be_exported_is_refused(keras_files, tmp_path):
    asked = request(keras_files / "leaping.keras", class_path="support.keras_nets:Leaping")
    with pytest.raises(ExportFailed, match="--input"):
        run(asked, tmp_path / "leaping")
    assert not (tmp_path / "leaping").exists()
