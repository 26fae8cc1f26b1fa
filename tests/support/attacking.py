"""A pytest plugin: attacks that are whole by `make attack` and short in `make test`, and what they counted."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

KEY = "attack"


@dataclass
class Attack:
    """How much one test attacks, and what it counts."""

    full: bool
    properties: list

    def size(self, short, full):
        """Return the number for the form in which this run attacks."""
        return full if self.full else short

    def count(self, what, n=1):
        """Add to what the summary prints of this file: "12,000 resets"."""
        self.properties.append((KEY, (what, n)))


class Counts:
    """Adds up, file by file, what the tests counted, whichever process ran them."""

    def __init__(self):
        self.of_files = defaultdict(Counter)

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":  # the last report of a test has all that it counted
            for key, value in report.user_properties:
                if key == KEY:
                    what, n = value
                    self.of_files[report.location[0]][what] += n

    def pytest_terminal_summary(self, terminalreporter):
        if self.of_files:
            terminalreporter.section("attacks")
        for file, counts in sorted(self.of_files.items()):
            name = Path(file).stem.removeprefix("test_")
            terminalreporter.line(f"{name}: {', '.join(f'{n:,} {what}' for what, n in counts.items())}")


@pytest.fixture
def attack(request):
    """The size of an attack, and the counts of one."""
    return Attack(request.config.getoption("--attack-full"), request.node.user_properties)


def pytest_addoption(parser):
    parser.addoption("--attack-full", action="store_true", help="attack for minutes, as `make attack` does")


def pytest_configure(config):
    config.pluginmanager.register(Counts(), "counts of attacks")
