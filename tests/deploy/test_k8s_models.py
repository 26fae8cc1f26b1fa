"""The script that fetches models for a pod, run with rclone on a folder in place of a bucket."""

import os
import shutil
import subprocess

import pytest
from cluster import MANIFESTS, ROOT, needs_kubectl, of_kind, render

from onnxserve_server.repository.discovery import discover

EXAMPLES = ROOT / "examples/models"
pytestmark = [
    needs_kubectl,
    pytest.mark.skipif(
        shutil.which("rclone") is None, reason="rclone is missing; scripts/install-debian.sh installs it"
    ),
]


@pytest.fixture
def source(tmp_path):
    """What lies in the bucket: the examples, and a model that no list names."""
    shutil.copytree(EXAMPLES, tmp_path / "bucket")
    shutil.copytree(EXAMPLES / "digits", tmp_path / "bucket/unlisted")
    return tmp_path / "bucket"


@pytest.fixture
def listed(tmp_path):
    """The list of the manifests, as the ConfigMap mounts it."""
    (data,) = (one["data"] for one in of_kind(render("models-s3"), "ConfigMap") if "SHA256SUMS" in one["data"])
    folder = tmp_path / "list"
    folder.mkdir()
    for name, text in data.items():
        (folder / name).write_text(text)
    return folder


def fetch(source, listed, folder):
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        ["sh", MANIFESTS / "components/models-s3/fetch.sh", folder],
        env={**os.environ, "MODELS_SOURCE": str(source), "MODELS_LIST": str(listed)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_listed_is_fetched_and_can_be_served_and_nothing_else(source, listed, tmp_path):
    (source / "names/model.yaml").write_text("this: is not in the list, and not fetched\n")
    for _ in range(2):  # the container may be started again
        ended = fetch(source, listed, tmp_path / "models")
        assert ended.returncode == 0, ended.stderr
    assert [(found.name, found.version) for found in discover(tmp_path / "models", {})] == [
        ("digits", "1"),
        ("names", "1"),
    ]
    config = (tmp_path / "models/names/model.yaml").read_bytes()
    assert config == (EXAMPLES / "names/model.yaml").read_bytes()


def test_a_file_that_was_changed_ends_the_start(source, listed, tmp_path):
    with (source / "digits/1/model.onnx").open("ab") as file:
        file.write(b"\0")
    ended = fetch(source, listed, tmp_path / "models")
    assert ended.returncode == 1
    assert "digits/1/model.onnx: FAILED" in ended.stdout
    assert f"what lies at {source} is not what SHA256SUMS lists" in ended.stderr


def test_a_file_that_is_not_there_ends_the_start(source, listed, tmp_path):
    (source / "digits/1/model.onnx").unlink()
    ended = fetch(source, listed, tmp_path / "models")
    assert ended.returncode != 0
    assert "digits/1/model.onnx" in ended.stdout + ended.stderr


def test_a_configuration_without_its_model_ends_the_start(source, listed, tmp_path):
    (listed / "numbers.yaml").write_text("threads: 1\n")
    ended = fetch(source, listed, tmp_path / "models")
    assert ended.returncode == 1
    assert "numbers.yaml: SHA256SUMS lists no file of a model 'numbers'" in ended.stderr
