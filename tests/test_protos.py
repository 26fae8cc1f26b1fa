"""The contract may grow, and what breaks its callers is refused: the comparison of `make check`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUF = Path(sys.executable).parent / "buf"


def compared(tmp_path, old, new):
    """Compare the contract, with one change to tensor.proto, with the baseline."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    file = tmp_path / "protos/onnxserve/v1/tensor.proto"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    subprocess.run([sys.executable, "scripts/protos.py", "--image", "image.binpb"], cwd=tmp_path, check=True)
    command = [BUF, "breaking", "image.binpb", "--against", "protos/baseline.binpb", "--path", "onnxserve/v1"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("string name = 2;", "string label = 2;", 'Field "2" with name "label" on message "Dimension" changed option'),
        ("int64 size = 1;", "int32 size = 1;", 'Field "1" with name "size" on message "Dimension" changed type'),
        ("repeated string labels = 4;", "", 'Previously present field "4" with name "labels" on message "TensorSpec"'),
    ],
)
def test_a_change_that_breaks_callers_is_refused(tmp_path, old, new, complaint):
    ended = compared(tmp_path, old, new)
    assert ended.returncode != 0
    assert complaint in ended.stdout


def test_a_new_field_is_let_in(tmp_path):
    ended = compared(tmp_path, "int32 batch_axis = 5;", "int32 batch_axis = 5;\n  string unit = 100;")
    assert ended.returncode == 0, ended.stdout
