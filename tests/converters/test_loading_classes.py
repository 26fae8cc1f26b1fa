"""--class names a class in a module or in a file."""

import sys

import pytest

from onnxserve_converters.errors import BadRequest
from onnxserve_converters.sources.base import load_class, make


@pytest.fixture(autouse=True)
def untouched_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    path = tmp_path / "nets.py"
    path.write_text("from beside import WIDTH\nclass Net:\n    def __init__(self, width=WIDTH): self.width = width\n")
    return path


def test_a_class_in_a_file_is_found_with_the_modules_beside_it(file):
    assert make(f"{file}:Net", {}).width == 3
    assert make(f"{file}:Net", {"width": 5}).width == 5


def test_a_path_from_the_working_directory_is_a_file_too(file, monkeypatch):
    monkeypatch.chdir(file.parent.parent)
    assert load_class(f"{file.parent.name}/nets.py:Net").__name__ == "Net"


def test_the_files_module_is_where_pickles_look_for_its_classes(file):
    found = load_class(f"{file}:Net")
    assert sys.modules[found.__module__].Net is found
    assert load_class(f"{file}:Net") is found


def test_a_module_of_the_working_directory_is_found(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert load_class("nets:Net").__name__ == "Net"


def test_a_file_named_like_a_module_in_use_is_refused(tmp_path):
    path = tmp_path / "json.py"
    path.write_text("class Net: ...\n")
    with pytest.raises(BadRequest, match="another module is named json"):
        load_class(f"{path}:Net")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nets.py", "expected package.module:Class or file.py:Class"),
        ("nets.py:", "expected package.module:Class or file.py:Class"),
        ("not/there.py:Net", "No such file"),
        ("not_there:Net", "No module named 'not_there'"),
        ("json:Net", "has no attribute 'Net'"),
        ("json:__name__", "not a class or function"),
    ],
)
def test_a_class_that_cannot_be_loaded_is_refused_with_the_reason(path, why):
    with pytest.raises(BadRequest, match=why):
        load_class(path)
