"""The script that fetches models for a pod, run with rclone on a folder in place of a bucket."""

import os
import re
import shutil
import subprocess

import pytest

from onnxserve_server.repository.discovery import discover
from support.cluster import MANIFESTS, ROOT, needs_kubectl, of_kind, render

EXAMPLES = ROOT / "examples/models"
DOCUMENTS = (ROOT / "docs/guides/kubernetes.md").read_text()
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


def test_the_command_that_the_documents_show_lists_every_file_but_the_configurations(source, tmp_path):
    (source / "digits/1/model.onnx.data").write_bytes(b"weights")
    (source / "names/begin.npy").write_bytes(b"an initial state")
    source.rename(tmp_path / "models")
    (command,) = re.findall(r"`(cd models; .*?)`", DOCUMENTS)
    printed = subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    files = [path for path in (tmp_path / "models").rglob("*") if path.is_file() and path.name != "model.yaml"]
    assert [line[66:] for line in printed.stdout.splitlines()] == sorted(
        str(path.relative_to(tmp_path / "models")) for path in files
    )
    (tmp_path / "list").mkdir()
    (tmp_path / "list/SHA256SUMS").write_text(printed.stdout)
    ended = fetch(tmp_path / "models", tmp_path / "list", tmp_path / "fetched")
    assert ended.returncode == 0, ended.stderr


def test_a_version_that_is_copied_as_the_documents_show_is_served_once_it_is_there(source):
    (coming,) = re.findall(r"cp models/digits/2 onnxserve-models-loader:/models/(\S+)", DOCUMENTS)
    (half, whole) = re.findall(r"exec onnxserve-models-loader -- mv /models/(\S+) /models/(\S+)", DOCUMENTS)[0]
    (new,) = re.findall(r"a whole new model to `/models/(\S+)`", DOCUMENTS)
    assert coming == half

    def served():
        return [(found.name, found.version) for found in discover(source, {}) if found.name == "digits"]

    (source / coming).mkdir()
    (source / new).mkdir()
    assert served() == [("digits", "1")]
    shutil.copy(source / "digits/1/model.onnx", source / coming)
    (source / half).rename(source / whole)
    assert served() == [("digits", "2")]


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
