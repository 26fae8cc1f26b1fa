"""Build the SDK of a commit into tests/data, where a test runs it against today's server: kept_wheel.py COMMIT.

Run it at each release with the release's tag, and commit the wheel beside those of earlier ones. The wheel holds the
client alone, packed without its dependencies.
"""

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests/data"
PARTS = ("client", "pyproject.toml", "README.md", "LICENSE")


def main() -> None:
    """Extract the client of the commit and pack it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="a tag or any other name that git knows")
    commit = parser.parse_args().commit
    archive = subprocess.run(["git", "archive", commit, *PARTS], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(directory, filter="data")
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={KEPT}", directory]
        subprocess.run(build, check=True)


if __name__ == "__main__":
    main()
