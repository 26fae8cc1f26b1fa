"""Generate the Python stubs from protos/ into client/onnxserve/v1, or say what about protos/ must hold.

python scripts/protos.py                 write the stubs
python scripts/protos.py --check         write nothing; exit 1 and name the files that are not what protos/ gives
python scripts/protos.py --image FILE    write protos/ and all they import as one image, for buf to lint
python scripts/protos.py --baseline      write protos/baseline.binpb, which `buf breaking` compares with: at a release
"""

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
BASELINE = PROTOS / "baseline.binpb"
STUBS = ROOT / "client"


def protoc(*arguments: str) -> None:
    """Run protoc on every .proto of our contract, which has all that they import."""
    files = sorted(str(path) for path in PROTOS.glob("onnxserve/v1/*.proto"))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}", *arguments, *files], check=True
    )


def generate(target: Path) -> None:
    """Write the stubs of every .proto of our contract below `target`."""
    protoc(*(f"--{kind}={target}" for kind in ("python_out", "pyi_out", "grpc_python_out")))
    for stub in target.glob("onnxserve/v1/*_pb2_grpc.py"):
        if "Servicer" not in stub.read_text():
            stub.unlink()  # a .proto without a service has no stub
    (target / "onnxserve/v1/__init__.py").write_text('"""The generated messages and stubs of the wire contract."""\n')


def write_image(path: Path, *options: str) -> None:
    """Write the contract and all it imports as one file of descriptors, which buf can read without a registry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    protoc("--include_imports", *options, f"--descriptor_set_out={path}")


def outdated() -> list[str]:
    """Return the names of the committed stubs that are not what protos/ gives, sorted."""
    with tempfile.TemporaryDirectory() as directory:
        generate(Path(directory))
        new, old = Path(directory, "onnxserve/v1"), STUBS / "onnxserve/v1"
        names = {path.name for root in (new, old) for path in root.glob("*.py*")}
        _, differ, missing = filecmp.cmpfiles(new, old, names, shallow=False)
    return sorted(differ + missing)


def main() -> None:
    """Do what one option asks for; without one, write the stubs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="compare the committed stubs, write nothing")
    choice.add_argument("--image", type=Path, metavar="FILE", help="write an image for buf lint")
    choice.add_argument("--baseline", action="store_true", help=f"write {BASELINE.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.image:
        write_image(options.image, "--include_source_info")
    elif options.baseline:
        write_image(BASELINE)
    elif not options.check:
        generate(STUBS)
    elif names := outdated():
        sys.exit(f"out of date: {', '.join(names)}; run `make protos`")


if __name__ == "__main__":
    main()
