"""Keras models that begin with layers of strings are cut off there, and keep their vocabularies."""

import subprocess
import sys
from pathlib import Path

import pytest

from onnxserve_converters.sources.keras_files import read_archive
from onnxserve_converters.sources.keras_strings import cut_off_strings
from support.converting import convert

SCRIPT = Path(__file__).parents[1] / "support" / "keras_string_nets.py"

WORDS = ["", "[UNK]", "a", "story", "so", "sad", "good", "film", "bad"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strings")
    subprocess.run([sys.executable, SCRIPT, folder], check=True, capture_output=True)
    return folder


def test_the_vocabulary_that_a_layer_learned_is_kept(files):
    path = files / "sequential.keras"
    architecture, strings = cut_off_strings(path, read_archive(path))
    first = architecture.config["config"]["layers"][0]["config"]
    assert (first["dtype"], first["batch_shape"]) == ("int64", [None, 8])
    assert strings.vocabularies == {first["name"]: WORDS}


def test_the_vocabulary_that_a_layer_was_given_is_kept_with_the_unknown_token(files):
    path = files / "functional.keras"
    _, strings = cut_off_strings(path, read_archive(path))
    assert strings.vocabularies == {"colour": ["[UNK]", "red", "green"]}


@pytest.mark.slow
def test_a_model_of_strings_takes_numbers_of_tokens(files, tmp_path):
    done = convert(files / "functional.keras", tmp_path / "models" / "net")
    assert done.report["model"]["inputs"]["colour"] == {"dtype": "int64", "shape": ["batch", 1]}
    assert (done.path / "assets" / "vocabulary_colour.txt").read_text() == "[UNK]\nred\ngreen\n"
    assert done.report["assets"] == ["assets/vocabulary_colour.txt"]
    assert "was cut off" in done.report["notes"][0]
