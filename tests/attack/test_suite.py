"""The suite itself: short and whole, and its counts, also where other processes attack."""

import subprocess
import sys
from pathlib import Path

from support.attacking import Attack

TESTS = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
def test_something(attack, n):
    attack.count("calls", attack.size(n, 1000 * n))
    attack.count("wrong answers", 0)
"""


def test_counts_of_other_processes_are_added_up(tmp_path):
    file = tmp_path / "test_example.py"
    file.write_text(TESTS)
    options = ["-p", "support.attacking", "-p", "no:cacheprovider", "-n", "1", "--rootdir", tmp_path, "--attack-full"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, options), str(file)],
        cwd=Path(__file__).parent.parent,  # where the package `support` is
        capture_output=True,
        text=True,
        check=False,
    )
    assert "example: 3,000 calls, 0 wrong answers" in ended.stdout, ended.stdout


def test_an_attack_is_short_unless_it_is_to_be_whole():
    assert [Attack(full, []).size(1, 1000) for full in (False, True)] == [1, 1000]
