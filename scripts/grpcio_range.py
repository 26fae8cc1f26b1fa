"""Report a grpcio that is newer than the supported range.

The server's fast edge stands on a layer of grpcio that is not public, so each release is tested before the range in
pyproject.toml is widened. A newer release, or an index out of reach, is printed and does not fail the check.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version


def supported() -> Requirement:
    """The range of grpcio that the server extra names."""
    pyproject = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())
    requirements = map(Requirement, pyproject["project"]["optional-dependencies"]["server"])
    return next(requirement for requirement in requirements if requirement.name == "grpcio")


def newest() -> Version | None:
    """The newest grpcio that the package index offers; None when it cannot be reached."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions", "grpcio"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return Version(answer.split("(", 1)[1].split(")", 1)[0])
    except (subprocess.SubprocessError, IndexError, InvalidVersion):
        return None


def main() -> None:
    """Print one line."""
    wanted, version = supported(), newest()
    if version is None:
        print(f"grpcio: supported {wanted.specifier}; the package index could not be reached to look for newer ones")
    elif version in wanted.specifier:
        print(f"grpcio: supported {wanted.specifier}; newest is {version}")
    else:
        print(f"grpcio: {version} is out, but the supported range is {wanted.specifier}: test the lane with it")


if __name__ == "__main__":
    main()
