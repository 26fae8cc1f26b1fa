"""The contract may grow, and what breaks its callers is refused: the comparison of `make check`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2, status_pb2

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


def compiled(tmp_path):
    """The descriptors of all .proto files, from a compiler with no other include path than theirs."""
    protos, image = ROOT / "protos", tmp_path / "image.binpb"
    files = [str(path.relative_to(protos)) for path in sorted(protos.rglob("*.proto"))]
    arguments = [f"-I{protos}", f"--descriptor_set_out={image}", "--include_imports", *files]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
    return descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())


def test_the_contract_compiles_by_itself_and_its_google_rpc_is_that_of_the_wire(tmp_path):
    pool = descriptor_pool.DescriptorPool()
    packages = {}
    for file in compiled(tmp_path).file:
        pool.Add(file)
        packages[file.name] = (file.options.go_package, file.options.java_package)
    for module in (status_pb2, error_details_pb2):
        theirs = module.DESCRIPTOR
        ours = pool.FindFileByName(theirs.name)
        assert packages[theirs.name] == (theirs.GetOptions().go_package, theirs.GetOptions().java_package)
        assert ours.message_types_by_name
        for name, message in ours.message_types_by_name.items():
            assert fields(message) == {
                number: field
                for number, field in fields(theirs.message_types_by_name[name]).items()
                if number in message.fields_by_number
            }


def fields(message):
    """Name, type, kind of message and repetition of each field, by number."""
    return {
        number: (field.name, field.type, field.message_type and field.message_type.full_name, field.is_repeated)
        for number, field in message.fields_by_number.items()
    }
