"""What the project as a whole promises."""

import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from support.tracked import ROOT, tracked

WORKFLOWS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(".github/workflows/*.yml"))


def test_no_file_knows_the_machine_that_it_was_written_on():
    places = re.compile(rb"(?<![\w.])/(?:work|home|root|Users)/\w")
    found = [str(path) for path in tracked() if places.search(path.read_bytes())]
    assert found == []


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", ".ci/run", *WORKFLOWS])
def test_the_commands_that_are_written_about_are_there(file):
    commands = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", (ROOT / file).read_text()))
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands <= targets


def test_the_addresses_of_a_repository_come_into_the_packages(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "scripts/project_urls.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, tmp_path / "scripts/project_urls.py", "https://git.example/owner/name"]
    subprocess.run(command, check=True)
    before, after = (tomllib.loads((root / "pyproject.toml").read_text()) for root in (ROOT, tmp_path))
    urls = after["project"].pop("urls")
    assert urls["Issues"] == "https://git.example/owner/name/issues"
    assert after == before
    assert subprocess.run(command, check=False, capture_output=True).returncode == 2  # they are there already
