"""Keras files are read as their writer meant them, or refused with the cure. Loaded in one process for all cases."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxserve_converters.sources.base import TRUST
from support.converting import request
from support.folders import listing

pytestmark = pytest.mark.timeout(300)

TESTS = Path(__file__).parents[1]
GATES, PAIRS = "support.keras_nets:Gates", "support.keras_nets:Pairs"
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
def loading(tmp_path_factory, keras_files, keras2_files):
    """The outcome of loading, by case, and whether the files were left as they were."""
    folder = tmp_path_factory.mktemp("loading")
    cases = read(keras_files, keras2_files, folder) | refused(keras_files, keras2_files, folder)
    before = listing(keras_files), listing(keras2_files)
    subprocess.run(
        [sys.executable, "-c", LOADER, folder / "outcomes.json"],
        input=pickle.dumps(list(cases.values())),
        check=True,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
    outcomes = dict(zip(cases, json.loads((folder / "outcomes.json").read_text()), strict=True))
    return outcomes, before == (listing(keras_files), listing(keras2_files))


@pytest.fixture(scope="module")
def outcomes(loading):
    return loading[0]


def read(keras_files, keras2_files, folder):
    """Sources that can be loaded, with their answers."""
    cases = {}
    for name, inputs in (KERAS_2 | ONLY_KERAS_2).items():
        cases[f"Keras 2 {name}"] = request(keras2_files / f"{name}.h5", *inputs), keras2_files / f"{name}.npz"
    for name, inputs in KERAS_2.items():
        for layout in ("w", "weights"):
            weights = keras2_files / f"{name}.{layout}.h5"
            asked = request(keras2_files / f"{name}.json", *inputs, weights=weights)
            cases[f"Keras 2 {name} from .{layout}.h5"] = asked, keras2_files / f"{name}.npz"
    layers = [
        {"class_name": "Dense", "config": {"name": "first", "units": 3, "batch_input_shape": [None, 4]}},
        {"class_name": "Dense", "config": {"name": "scores", "units": 2}},
    ]
    (folder / "old.json").write_text(
        json.dumps({"class_name": "Sequential", "config": layers, "keras_version": "2.1.6", "backend": "tensorflow"})
    )
    shutil.copy(keras_files / "dense.keras", folder / "archive")
    gates = keras_files / "gates.weights.h5"
    pairs = keras_files / "pairs.weights.h5"
    return cases | {
        "before Keras 2.2.3": (
            request(folder / "old.json", "x=float32[batch,4]", weights=keras2_files / "base.w.h5"),
            keras2_files / "base.npz",
        ),
        "without an ending": (request(folder / "archive"), keras_files / "dense.npz"),
        "weights of a class": (
            request(gates, *SIDES, class_path=GATES, class_arguments={"units": 6}),
            keras_files / "gates.npz",
        ),
        "several arguments": (
            request(keras_files / "gates.keras", *SIDES, class_path=GATES),
            keras_files / "gates.npz",
        ),
        "a dictionary": (request(pairs, *PAIR, class_path=PAIRS), None),
        "a list": (request(pairs, *PAIR, class_path=PAIRS, class_arguments={"by_name": False}), None),
        "a layer beside the class": (
            request(keras_files / "doubling.keras", class_path=GATES),
            keras_files / "doubling.npz",
        ),
        "a layer beside the class, of Keras 2": (
            request(keras2_files / "own.h5", class_path=GATES),
            keras2_files / "own.npz",
        ),
        "stateful": (request(keras_files / "stateful.keras"), keras_files / "stateful.npz"),
        "first called with two rows": (request(keras_files / "called.keras", "x=float32[rows,3]"), None),
    }


def refused(keras_files, keras2_files, folder):
    """Sources that cannot be loaded, and at the end one with code that may run."""
    (folder / "garbage.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)))
    strings = {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": ["a"]}}
    sequential = {"module": "keras", "class_name": "Sequential", "config": {"name": "net", "layers": [strings]}}
    (folder / "strings.json").write_text(json.dumps(sequential))
    code = {"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None], "function_type": "lambda"}}
    (folder / "code.json").write_text(
        json.dumps({"class_name": "Sequential", "config": {"layers": [code]}, "keras_version": "2.9.0"})
    )
    time_first = (keras2_files / "recurrent.json").read_text().replace('"time_major": false', '"time_major": true')
    (folder / "time_first.json").write_text(time_first)
    gates, pair, image = keras_files / "gates.weights.h5", keras_files / "pair.json", keras_files / "image.weights.h5"
    cases = {
        "code": request(keras_files / "lambda.keras"),
        "code of Keras 2": request(folder / "code.json", weights=image),
        "a class missing": request(keras_files / "softmax.keras"),
        "a layer missing": request(keras_files / "doubling.keras", class_path="fractions:Fraction"),
        "no model": request(gates, class_path="fractions:Fraction"),
        "an input missing": request(keras_files / "gates.keras", class_path=GATES),
        "inputs not declared": request(gates, class_path=GATES),
        "a dtype contradicted": request(keras_files / "dense.keras", "x=int32[batch,2]"),
        "a size contradicted": request(keras_files / "dense.keras", "x=float32[batch,3]"),
        "an unknown input": request(pair, "c=float32[batch,4]", weights=keras_files / "pair.weights.h5"),
        "garbage": request(folder / "garbage.h5"),
        "weights alone": request(gates),
        "no weights": request(pair),
        "weights not there": request(pair, weights=keras_files / "none.h5"),
        "weights twice": request(keras_files / "dense.keras", weights=image),
        "weights of another": request(pair, weights=gates),
        "weights of a larger one": request(pair, weights=image),
        "weights that are none": request(pair, weights=folder / "garbage.h5"),
        "an operator in an .h5": request(keras_files / "sum.h5"),
        "a function in an .h5": request(keras_files / "function.h5"),
        "strings": request(folder / "strings.json", weights=image),
        "averages of padding": request(keras_files / "averages.keras"),
        "bicubic": request(keras_files / "bicubic.keras"),
        "time first": request(folder / "time_first.json", weights=keras2_files / "recurrent.w.h5"),
        "only for Keras 2, in parts": request(keras2_files / "operators.json", weights=keras2_files / "operators.w.h5"),
        "only for Keras 2, as .keras": request(keras2_files / "operators.keras"),
    }
    trusted = request(keras_files / "lambda.keras", trust_code=True), keras_files / "lambda.npz"
    return {name: (asked, None) for name, asked in cases.items()} | {"trusted code": trusted}


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
