"""Generate the Python stubs from protos/ into client/onnxserve/v1: protos.py [--check | --image FILE].

With --check nothing is written; exit 1 and the names of the files that differ from what would be generated. With
--image the protos and all they import become one file of descriptors, which buf can read without a registry.
"""

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

import google.rpc.status_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GOOGLE = Path(google.rpc.status_pb2.__file__).parent.parent.parent  # its package has the .proto files beside the stubs


def protoc(*arguments: str) -> None:
    """Run protoc on every .proto of our contract."""
    places = (f"--proto_path={PROTOS}", f"--proto_path={GOOGLE}")
    files = sorted(str(path) for path in PROTOS.glob("onnxserve/v1/*.proto"))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *places, *arguments, *files], check=True)


def generate(target: Path) -> None:
    """Write the stubs of every .proto of our contract below `target`."""
    protoc(*(f"--{kind}={target}" for kind in ("python_out", "pyi_out", "grpc_python_out")))
    for stub in target.glob("onnxserve/v1/*_pb2_grpc.py"):
        if "Servicer" not in stub.read_text():
            stub.unlink()  # a .proto without a service has no stub
    (target / "onnxserve/v1/__init__.py").write_text('"""The generated messages and stubs of the wire contract."""\n')


def main() -> int:
    """Generate, or with --check compare; return the exit code."""
    if "--image" in sys.argv[1:]:
        image = Path(sys.argv[-1])
        image.parent.mkdir(parents=True, exist_ok=True)
        protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={image}")
        return 0
    committed = ROOT / "client"
    if "--check" not in sys.argv[1:]:
        generate(committed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        new, old = Path(folder, "onnxserve/v1"), committed / "onnxserve/v1"
        names = {path.name for root in (new, old) for path in root.glob("*.py*")}
        _, differ, missing = filecmp.cmpfiles(new, old, names, shallow=False)
    if differ or missing:
        print(f"not what protos/ gives: {', '.join(sorted(differ + missing))}; run `make protos`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
