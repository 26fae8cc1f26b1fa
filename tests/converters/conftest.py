"""Directories to convert into, and directories of Keras files to convert."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from support import zoo
from support.converting import convert as convert_file

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def area(tmp_path):
    """A folder with a repository that has one version of one model."""
    zoo.write(tmp_path / "area" / "models", {"net": zoo.double()})
    return tmp_path / "area"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module")
def convert(folder):
    """Convert a file, or a model of the zoo, to folder/models/name."""

    def run(source, name, **asked):
        if isinstance(source, onnx.ModelProto):
            onnx.save(source, folder / f"{name}.onnx")
            source = folder / f"{name}.onnx"
        return convert_file(source, folder / "models" / name, **asked)

    return run


@pytest.fixture(scope="session")
def keras_files(tmp_path_factory):
    """The folder that keras_nets.py fills."""
    return _filled(tmp_path_factory.mktemp("keras"), "keras_nets.py")


@pytest.fixture(scope="session")
def keras2_files(tmp_path_factory):
    """The folder that keras2_nets.py fills."""
    return _filled(tmp_path_factory.mktemp("keras2"), "keras2_nets.py")


def _filled(folder, script):
    subprocess.run([sys.executable, SUPPORT / script, folder], check=True, capture_output=True)
    return folder
