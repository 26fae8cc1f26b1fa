"""Directories to convert into."""

import onnx
import pytest

from support import zoo
from support.converting import convert as convert_file


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
