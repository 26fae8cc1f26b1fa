"""The programs of examples/, run as readers run them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments, cwd=ROOT):
    """Run Python with arguments, from the project's root or another directory, to its end."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


def check_usage(path):
    """Fail unless a program has --help and refuses options that it does not know."""
    helped, misused = run(path, "--help"), run(path, "--no-such-option")
    assert (helped.returncode, misused.returncode) == (0, 2), helped.stderr + misused.stderr
    assert helped.stdout.startswith(f"usage: {path.name}")
    assert "unrecognized arguments: --no-such-option" in misused.stderr
