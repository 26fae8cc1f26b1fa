"""Install what dist/ has, each file in an environment of its own, and use it: try_dist.py [FILE...].

For every wheel and sdist: the client alone is imported; with the extra `cpu`, the command serves examples/models and
predicts. Nothing of this checkout is on the path but those models and constraints.txt.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS, DIGIT = ROOT / "examples/models", ROOT / "examples/data/digit.npy"
READY = "onnxserve is ready on "


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command; return what it printed. Its failure ends the program."""
    print("+", *command, flush=True)
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def install(python: Path, requirement: str, cwd: Path) -> None:
    """Install a file, perhaps with an extra, and what it needs, in the versions of constraints.txt."""
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--constraint", ROOT / "constraints.txt", requirement, cwd=cwd)
    run(*pip, "check", cwd=cwd)


def try_client(python: Path, file: Path, cwd: Path) -> None:
    """Install without extras, and import the client where no server is."""
    install(python, str(file), cwd)
    run(python, "-c", "import onnxserve; onnxserve.Client('localhost:1').close()", cwd=cwd)


def try_server(python: Path, file: Path, cwd: Path) -> None:
    """Install with the CPU runtime; serve, predict, stop."""
    install(python, f"{file}[cpu]", cwd)
    command = python.parent / "onnxserve"
    print(run(command, "--version", cwd=cwd), end="")
    serve = (command, "serve", "--models", MODELS, "--port", "0", "--http-port", "-1")
    with subprocess.Popen(serve, cwd=cwd, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            if not line.startswith(READY):
                sys.exit(f"{file.name}: the server did not become ready: {line!r}")
            target = line.removeprefix(READY).strip()
            answer = run(command, "predict", "digits", "--input", f"image={DIGIT}", "--target", target, cwd=cwd)
        finally:
            server.terminate()
    if server.returncode != 0 or "probabilities" not in answer:
        sys.exit(f"{file.name}: exit code {server.returncode}, answer {answer!r}")


def main() -> None:
    """Try each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: all of dist/")
    files = parser.parse_args().files or sorted([*ROOT.glob("dist/*.whl"), *ROOT.glob("dist/*.tar.gz")])
    if not files:
        parser.error("dist/ is empty; run `make dist`")
    for file in files:
        with tempfile.TemporaryDirectory() as directory:
            environment = Path(directory, "venv")
            venv.create(environment, with_pip=True)
            for attempt in (try_client, try_server):
                attempt(environment / "bin/python", file.resolve(), Path(directory))
        print(f"{file.name}: installed and tried")


if __name__ == "__main__":
    main()
