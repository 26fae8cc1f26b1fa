"""Keras models of every form, all the way into a repository and out of a server, and bad ones refused."""

import collections
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxserve_converters.conversion import run
from onnxserve_converters.errors import ExportFailed
from onnxserve_converters.sources.base import TRUST
from support.converting import convert, request, same
from support.folders import listing

pytestmark = pytest.mark.timeout(300)

SUPPORT = Path(__file__).parents[1] / "support"
GATES, PAIRS = "keras_nets:Gates", "keras_nets:Pairs"
SIDES = ("left=float32[batch,4]", "right=float32[batch,6]")
PAIR = ("u=float32[batch,4]", "v=float32[batch,4]")

# Keras 2 networks and how their inputs are described.
KERAS_2 = {
    "recurrent": (),
    "cells": (),
    "stateful": (),
    "block": ("tokens=float32[batch,time,8]", "padding=bool[batch,time,time]"),
    "image": ("x=float32[batch,8,8,3]",),
    "base": ("x=float32[batch,4]",),
}

# Of these Keras 3 on torch would make something else, or nothing at all.
ONLY_KERAS_2 = {"uneven": (), "operators": ()}

# Loads one source after the other and writes the outcome of each: the error, or the model and its largest errors.
LOADER = """
import json, os, pickle, sys
import numpy as np
from onnxserve_converters.errors import ConverterError
from onnxserve_converters.sources.detection import load_source
outcomes = []
for request, answers in pickle.load(sys.stdin.buffer):
    try:
        model = load_source(request)[1]
    except ConverterError as error:
        outcomes.append({"kind": type(error).__name__, "error": str(error)})
        continue
    outcomes.append({"inputs": " ".join(map(str, model.inputs)), "notes": model.notes, "reference": model.reference})
    if answers is not None:
        wanted = np.load(answers)
        outputs = model.run({spec.name: wanted[spec.name] for spec in model.inputs})
        outcomes[-1]["off"] = {name: float(np.abs(outputs[name] - wanted[name]).max()) for name in outputs}
json.dump(outcomes, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder that keras_nets.py fills."""
    return filled(tmp_path_factory.mktemp("keras"), "keras_nets.py")


@pytest.fixture(scope="module")
def files2(tmp_path_factory):
    """The folder that keras2_nets.py fills."""
    return filled(tmp_path_factory.mktemp("keras2"), "keras2_nets.py")


def filled(folder, script):
    subprocess.run([sys.executable, SUPPORT / script, folder], check=True, capture_output=True)
    return folder


class Converted:
    """A repository that a model is published in when it is first asked for."""

    def __init__(self, root, files, files2):
        self.root, self._reports = root, {}
        self._sources = {
            "dense": (request(files / "dense.keras"), files / "dense.npz"),
            "softmax": (request(files / "softmax.keras", class_path="keras_nets:Softmax"), files / "softmax.npz"),
            "image": (request(files / "image.h5"), files / "image.npz"),
            "pair": (request(files / "pair.json", weights=files / "pair.weights.h5"), files / "pair.npz"),
            "live": (request(files / "live" / "model.keras", *SIDES, in_memory=True), files / "gates.npz"),
            "recurrent": (request(files / "recurrent.keras"), files / "recurrent.npz"),
            "scanned": (request(files / "scanned.keras"), files / "scanned.npz"),
            "block": (
                request(files / "block.keras", "tokens=float32[batch,time,8]", "mask=bool[batch,time]"),
                files / "block.npz",
            ),
            "recurrent_2": (request(files2 / "recurrent.h5"), files2 / "recurrent.npz"),
            "block_2": (
                request(files2 / "block.json", *KERAS_2["block"], weights=files2 / "block.w.h5"),
                files2 / "block.npz",
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


SLOW = ("recurrent", "scanned", "recurrent_2")  # torch takes seconds for each LSTM and each scan
CONVERTED = [
    *("dense", "softmax", "image", "pair", "live", "block", "block_2"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory, files, files2):
    return Converted(tmp_path_factory.mktemp("repository"), files, files2)


@pytest.fixture(scope="module")
def loading(tmp_path_factory, files, files2):
    """The outcome of loading, by case, and whether the files were left as they were."""
    folder = tmp_path_factory.mktemp("loading")
    cases = read(files, files2, folder) | refused(files, files2, folder)
    before = listing(files), listing(files2)
    subprocess.run(
        [sys.executable, "-c", LOADER, folder / "outcomes.json"],
        input=pickle.dumps(list(cases.values())),
        check=True,
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
    )
    outcomes = dict(zip(cases, json.loads((folder / "outcomes.json").read_text()), strict=True))
    return outcomes, before == (listing(files), listing(files2))


@pytest.fixture(scope="module")
def outcomes(loading):
    return loading[0]


def read(files, files2, folder):
    """Sources that can be loaded, with their answers."""
    cases = {}
    for name, inputs in (KERAS_2 | ONLY_KERAS_2).items():
        cases[f"Keras 2 {name}"] = request(files2 / f"{name}.h5", *inputs), files2 / f"{name}.npz"
    for name, inputs in KERAS_2.items():
        for layout in ("w", "weights"):
            weights = files2 / f"{name}.{layout}.h5"
            asked = request(files2 / f"{name}.json", *inputs, weights=weights)
            cases[f"Keras 2 {name} from .{layout}.h5"] = asked, files2 / f"{name}.npz"
    layers = [
        {"class_name": "Dense", "config": {"name": "first", "units": 3, "batch_input_shape": [None, 4]}},
        {"class_name": "Dense", "config": {"name": "scores", "units": 2}},
    ]
    (folder / "old.json").write_text(
        json.dumps({"class_name": "Sequential", "config": layers, "keras_version": "2.1.6", "backend": "tensorflow"})
    )
    shutil.copy(files / "dense.keras", folder / "archive")
    gates = files / "gates.weights.h5"
    pairs = files / "pairs.weights.h5"
    return cases | {
        "before Keras 2.2.3": (
            request(folder / "old.json", "x=float32[batch,4]", weights=files2 / "base.w.h5"),
            files2 / "base.npz",
        ),
        "without an ending": (request(folder / "archive"), files / "dense.npz"),
        "weights of a class": (
            request(gates, *SIDES, class_path=GATES, class_arguments={"units": 6}),
            files / "gates.npz",
        ),
        "several arguments": (request(files / "gates.keras", *SIDES, class_path=GATES), files / "gates.npz"),
        "a dictionary": (request(pairs, *PAIR, class_path=PAIRS), None),
        "a list": (request(pairs, *PAIR, class_path=PAIRS, class_arguments={"by_name": False}), None),
        "a layer beside the class": (request(files / "doubling.keras", class_path=GATES), files / "doubling.npz"),
        "a layer beside the class, of Keras 2": (request(files2 / "own.h5", class_path=GATES), files2 / "own.npz"),
        "stateful": (request(files / "stateful.keras"), files / "stateful.npz"),
        "first called with two rows": (request(files / "called.keras", "x=float32[rows,3]"), None),
    }


def refused(files, files2, folder):
    """Sources that cannot be loaded, and at the end one with code that may run."""
    (folder / "garbage.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)))
    strings = {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": ["a"]}}
    sequential = {"module": "keras", "class_name": "Sequential", "config": {"name": "net", "layers": [strings]}}
    (folder / "strings.json").write_text(json.dumps(sequential))
    code = {"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None], "function_type": "lambda"}}
    (folder / "code.json").write_text(
        json.dumps({"class_name": "Sequential", "config": {"layers": [code]}, "keras_version": "2.9.0"})
    )
    time_first = (files2 / "recurrent.json").read_text().replace('"time_major": false', '"time_major": true')
    (folder / "time_first.json").write_text(time_first)
    gates, pair, image = files / "gates.weights.h5", files / "pair.json", files / "image.weights.h5"
    cases = {
        "code": request(files / "lambda.keras"),
        "code of Keras 2": request(folder / "code.json", weights=image),
        "a class missing": request(files / "softmax.keras"),
        "a layer missing": request(files / "doubling.keras", class_path="fractions:Fraction"),
        "no model": request(gates, class_path="fractions:Fraction"),
        "an input missing": request(files / "gates.keras", class_path=GATES),
        "inputs not declared": request(gates, class_path=GATES),
        "a dtype contradicted": request(files / "dense.keras", "x=int32[batch,2]"),
        "a size contradicted": request(files / "dense.keras", "x=float32[batch,3]"),
        "an unknown input": request(pair, "c=float32[batch,4]", weights=files / "pair.weights.h5"),
        "garbage": request(folder / "garbage.h5"),
        "weights alone": request(gates),
        "no weights": request(pair),
        "weights not there": request(pair, weights=files / "none.h5"),
        "weights twice": request(files / "dense.keras", weights=image),
        "weights of another": request(pair, weights=gates),
        "weights of a larger one": request(pair, weights=image),
        "weights that are none": request(pair, weights=folder / "garbage.h5"),
        "an operator in an .h5": request(files / "sum.h5"),
        "a function in an .h5": request(files / "function.h5"),
        "strings": request(folder / "strings.json", weights=image),
        "averages of padding": request(files / "averages.keras"),
        "bicubic": request(files / "bicubic.keras"),
        "time first": request(folder / "time_first.json", weights=files2 / "recurrent.w.h5"),
        "only for Keras 2, in parts": request(files2 / "operators.json", weights=files2 / "operators.w.h5"),
        "only for Keras 2, as .keras": request(files2 / "operators.keras"),
    }
    trusted = request(files / "lambda.keras", trust_code=True), files / "lambda.npz"
    return {name: (asked, None) for name, asked in cases.items()} | {"trusted code": trusted}


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


@pytest.mark.slow
def test_lengths_stay_free(converted):
    model = converted.report("recurrent")["model"]
    assert model["inputs"]["x"]["shape"] == ["batch", "x_1", 4]
    assert model["outputs"]["steps"]["shape"] == ["batch", "x_1", 2]
    block = converted.report("block")["model"]
    assert block["outputs"]["encoded"]["shape"] == ["batch", "time", 8]


@pytest.mark.slow
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
    assert converted.report("live")["source"]["kind"] == "live_keras"
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


@pytest.mark.slow
def test_a_recurrent_layer_that_cannot_be_exported_is_refused(files, tmp_path):
    asked = request(files / "leaping.keras", class_path="keras_nets:Leaping")
    with pytest.raises(ExportFailed, match="--input"):
        run(asked, tmp_path / "leaping")
    assert not (tmp_path / "leaping").exists()


READ = [
    *(f"Keras 2 {name}" for name in (*KERAS_2, *ONLY_KERAS_2)),
    *(f"Keras 2 {name} from .{layout}.h5" for name in KERAS_2 for layout in ("w", "weights")),
    "before Keras 2.2.3",
    "without an ending",
    "weights of a class",
    "several arguments",
    "a layer beside the class",
    "a layer beside the class, of Keras 2",
    "stateful",
    "trusted code",
]


@pytest.mark.parametrize("case", READ)
def test_a_source_is_read_as_what_wrote_it_meant_it(outcomes, case):
    assert "error" not in outcomes[case], outcomes[case]
    assert outcomes[case]["off"]
    assert max(outcomes[case]["off"].values()) < 1e-5


@pytest.mark.parametrize(
    "case, inputs",
    [
        ("first called with two rows", "x=float32[rows,3]"),
        ("a dictionary", " ".join(PAIR)),
        ("a list", " ".join(PAIR)),
        ("stateful", "x=float32[batch,x_1,4]"),
        ("Keras 2 stateful", "x=float32[batch,x_1,4]"),
        ("several arguments", " ".join(SIDES)),
    ],
)
def test_rows_are_free_however_many_the_model_was_built_with(outcomes, case, inputs):
    assert outcomes[case].get("inputs") == inputs, outcomes[case]


@pytest.mark.parametrize("case", ["stateful", "Keras 2 stateful"])
def test_that_no_states_are_kept_is_noted(outcomes, case):
    assert any("remembering: states are not kept" in note for note in outcomes[case]["notes"])


@pytest.mark.parametrize("case", [f"Keras 2 {name}" for name in ONLY_KERAS_2])
def test_what_keras_3_cannot_read_is_left_to_keras_2(outcomes, case):
    assert "tf_keras" in outcomes[case]["reference"]


@pytest.mark.parametrize(
    "case, words",
    [
        ("code", TRUST),
        ("code of Keras 2", TRUST),
        ("a class missing", "class Softmax is not part of Keras 3.15.1; if it is your own, name it with --class"),
        ("a layer missing", "class Doubling is not part of Keras 3.15.1"),
        ("no model", "--class fractions:Fraction: expected a keras.Model, got a Fraction"),
        ("an input missing", "describe all its inputs with --input"),
        ("inputs not declared", "describe them, such as --input left=float32[batch,10]"),
        ("a dtype contradicted", "declares x=float32[?,2]"),
        ("a size contradicted", "declares x=float32[?,2]"),
        ("an unknown input", "unknown input; "),
        ("garbage", "not a readable HDF5 file"),
        ("weights alone", "name the class with --class package.module:Class, or convert the architecture's .json"),
        ("no weights", "an architecture without weights; name the weights file with --weights"),
        ("weights not there", "none.h5: no such file"),
        ("weights twice", "has its own weights; --weights is for an architecture's .json only"),
        ("weights of another", "the weights do not fit the model"),
        ("weights of a larger one", "but the model has 4; name the weights of this model"),
        ("weights that are none", "not a readable HDF5 file"),
        ("an operator in an .h5", "save it as a .keras file"),
        ("a function in an .h5", "save it as a .keras file"),
        ("strings", "model.export(DIRECTORY)"),
        ("averages of padding", "averages with padding='same' gives other results on Keras' torch backend"),
        ("bicubic", "bicubic interpolation gives other results on Keras' torch backend"),
        ("time first", "Keras 3 supports only time_major=False"),
        ("only for Keras 2, in parts", "save the whole model with Keras 2 as an .h5 file"),
        ("only for Keras 2, as .keras", "save the whole model with Keras 2 as an .h5 file"),
    ],
)
def test_a_source_that_cannot_be_taken_is_refused_with_the_cure(outcomes, case, words):
    assert outcomes[case].get("kind") == "BadRequest", outcomes[case]
    assert words in outcomes[case]["error"]
    assert "\n" not in outcomes[case]["error"]


def test_files_are_left_as_they_were(loading):
    assert loading[1]
