"""The SDKs of earlier releases, kept as wheels in tests/data, against today's server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.stepping import CONFIGS, MODELS

DATA = Path(__file__).parent / "data"
WHEELS = sorted(DATA.glob("onnxserve-*.whl"))


@pytest.fixture(params=WHEELS, ids=lambda wheel: wheel.name.split("-")[1])
def wheel(request):
    return request.param


@pytest.fixture
def installed(wheel, tmp_path):
    """A directory with the wheel installed and nothing else of ours."""
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", f"--target={target}", wheel], check=True)
    return target


def test_a_wheel_is_kept():
    assert WHEELS


def test_the_sdk_of_an_earlier_release_works_with_this_server(serve, installed, wheel, tmp_path):
    server = serve(MODELS, CONFIGS)
    program = [sys.executable, DATA / "sdk_program.py", server.address]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    ended = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    version, file = ended.stdout.split()
    assert version == wheel.name.split("-")[1]
    assert Path(file).is_relative_to(installed)
