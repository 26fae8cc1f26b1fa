"""Libraries of custom operators: those that model.yaml lists are used, once each is the file that was meant."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from typer.testing import CliRunner

from onnxserve._cli.app import app
from support import zoo

SOURCE = Path(zoo.__file__).with_name("custom_ops.c")
X = np.arange(6, dtype=np.float32).reshape(2, 3)

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler to build a library with")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The library that has acme.Special."""
    path = tmp_path_factory.mktemp("library") / "special.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", path, SOURCE], check=True)
    return path


def special():
    """y = 2 x, float32 [batch, 3], by an operator that ONNX Runtime does not have."""
    graph = helper.make_graph(
        [helper.make_node("Special", ["x"], ["y"], domain="acme")],
        "g",
        [zoo.tensor("x", ["batch", 3])],
        [zoo.tensor("y", ["batch", 3])],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("acme", 1)], ir_version=10
    )


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def repository(tmp_path, library):
    """A repository of that model, with the library beside the models; returns its root and the text of a model.yaml."""
    root = zoo.write(tmp_path / "models", {"m": special()})
    shutil.copy(library, root / "special.so")
    return root, f"custom_operators: [{{path: ../special.so, sha256: {digest(library)}}}]"


def test_a_listed_library_is_used(repository, serving):
    root, text = repository
    (root / "m" / "model.yaml").write_text(text)
    with serving(root) as server:
        np.testing.assert_array_equal(server.client.predict("m", {"x": X})["y"], 2 * X)


def refusal(root):
    done = CliRunner().invoke(app, ["serve", "--models", str(root), "--port=0", "--http-port=-1"])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    return line


def test_a_library_that_is_not_the_listed_one_is_never_loaded(repository):
    root, text = repository
    (root / "m" / "model.yaml").write_text(text)
    with (root / "special.so").open("ab") as file:
        file.write(b"\0")
    line = refusal(root)
    assert line.startswith(
        f"onnxserve: {root}/m/model.yaml: custom_operators[0]: {root}/m/../special.so has the SHA-256 "
    )
    assert digest(root / "special.so") in line


def test_a_library_lies_within_the_repository(repository, tmp_path):
    root, text = repository
    (root / "special.so").rename(tmp_path / "special.so")
    (root / "m" / "model.yaml").write_text(text.replace("../", "../../"))
    assert f"special.so: lies outside of {root}; put it there" in refusal(root)
    (root / "special.so").symlink_to("../special.so")
    (root / "m" / "model.yaml").write_text(text)
    assert f"special.so: lies outside of {root}; put it there" in refusal(root)


def test_a_file_that_is_no_library_is_refused(repository):
    root, _ = repository
    (root / "special.so").write_bytes(b"nothing")
    listed = f"custom_operators: [{{path: ../special.so, sha256: {digest(root / 'special.so')}}}]"
    (root / "m" / "model.yaml").write_text(listed)
    assert "ONNX Runtime cannot use it as a library of custom operators" in refusal(root)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{path: ../special.so}", "custom_operators[0].sha256: field required"),
        ("{path: ../special.so, sha256: ABC}", "custom_operators[0].sha256: string should match pattern"),
        ("{path: ../gone.so, sha256: '" + 64 * "0" + "'}", "gone.so: no such file"),
    ],
)
def test_an_entry_that_says_too_little_is_refused(repository, entry, says):
    root, _ = repository
    (root / "m" / "model.yaml").write_text(f"custom_operators: [{entry}]")
    assert says in refusal(root)
