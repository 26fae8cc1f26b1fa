"""Models are found on disk: which directories count, which versions serve, in what order."""

import pytest

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.config import read_config
from onnxserve_server.repository.discovery import discover
from support import zoo


@pytest.fixture
def root(tmp_path):
    """A model with the versions 1, 9 and 10, and one with 1 alone; their files are empty."""
    for name, version in (("many", "9"), ("many", "10"), ("many", "1"), ("alone", "1")):
        folder = tmp_path / "models" / name / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").touch()
    return tmp_path / "models"


def found(root):
    return [(version.name, version.version) for version in discover(root, {})]


def test_the_newest_version_serves_where_nothing_is_said(root):
    assert found(root) == [("alone", "1"), ("many", "10")]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ("latest", ["10"]),
        ("all", ["1", "9", "10"]),
        ("['9', '1']", ["1", "9"]),
        ("['10']", ["10"]),
        ("[9, 1]", ["1", "9"]),
    ],
)
def test_versions_are_chosen_by_model_yaml_and_come_oldest_first(root, versions, expected):
    (root / "many" / "model.yaml").write_text(f"versions: {versions}")
    assert [version for name, version in found(root) if name == "many"] == expected


def test_an_empty_list_of_versions_is_refused(root):
    (root / "many" / "model.yaml").write_text("versions: []")
    with pytest.raises(ConfigurationError, match="versions"):
        discover(root, {})


def test_hidden_directories_files_and_directories_that_are_no_version_are_skipped(root):
    (root / ".git" / "1").mkdir(parents=True)
    (root / "README.md").touch()
    (root / "many" / "old").mkdir()
    (root / "many" / "notes.txt").touch()
    (root / "many" / "99").touch()
    assert found(root) == [("alone", "1"), ("many", "10")]


@pytest.mark.parametrize("name", ["two words", "-dash", "ünï", "a:b"])
def test_a_folder_whose_name_cannot_be_a_models_is_refused(root, name):
    (root / name / "1").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="not a valid model name; use letters") as raised:
        discover(root, {})
    assert str(root / name) in str(raised.value)


def test_a_file_is_not_a_directory_of_models(tmp_path):
    (tmp_path / "models").touch()
    with pytest.raises(ConfigurationError, match="models: not a directory; --models must name the directory"):
        discover(tmp_path / "models", {})


def test_the_directory_of_one_model_is_not_taken_for_a_repository(root):
    with pytest.raises(ConfigurationError, match="many/1: is a version and not a model; --models must name"):
        discover(root / "many", {})


def test_a_link_to_a_model_is_followed(root, tmp_path):
    (root / "many").rename(tmp_path / "elsewhere")
    (root / "many").symlink_to(tmp_path / "elsewhere")
    assert found(root) == [("alone", "1"), ("many", "10")]


@pytest.mark.parametrize("text", ["", "# nothing but a remark", "{}", "batching: {}", "---"])
def test_a_configuration_that_says_nothing_is_the_default(tmp_path, text):
    (tmp_path / "model.yaml").write_text(text)
    assert read_config(tmp_path / "model.yaml", {}) == read_config(tmp_path / "absent.yaml", {})


def test_inputs_and_outputs_may_be_named_by_numbers(tmp_path):
    (tmp_path / "model.yaml").write_text("batch_axis: {0: 1}\nshared: [2]")
    config = read_config(tmp_path / "model.yaml", {})
    assert (config.batch_axis, config.shared) == ({"0": 1}, ["2"])


def test_yaml_cannot_make_objects(tmp_path):
    (tmp_path / "model.yaml").write_text("instances: !!python/object/apply:os.getpid []")
    with pytest.raises(ConfigurationError, match="could not determine a constructor"):
        read_config(tmp_path / "model.yaml", {})


def test_versions_are_served_beside_each_other_and_the_newest_to_who_names_none(tmp_path, serving):
    import numpy as np
    import onnx

    root = zoo.write(tmp_path / "models", {"m": zoo.double()}, {"m": "versions: all"})
    for version in ("9", "10"):
        (root / "m" / version).mkdir()
    onnx.save(zoo.double(), root / "m" / "9" / "model.onnx")
    onnx.save(zoo.mlp(3), root / "m" / "10" / "model.onnx")
    x = np.ones((1, 3), np.float32)
    with serving(root) as server:
        assert server.client.predict("m", {"x": x}).version == "10"
        assert server.client.predict("m", {"x": x})["y"].shape == (1, 10)
        assert server.client.predict("m", {"x": x}, version="9")["y"].tolist() == [[2, 2, 2]]


def test_directories_that_are_not_models_are_skipped(root):
    for name in ("lost+found", ".cache"):
        (root / name).mkdir()
    assert found(root) == [("alone", "1"), ("many", "10")]
