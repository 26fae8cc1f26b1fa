"""What the project as a whole promises."""

import re

from support.tracked import ROOT, tracked


def test_no_file_knows_the_machine_that_it_was_written_on():
    places = re.compile(rb"(?<![\w.])/(?:work|home|root|Users)/\w")
    found = [str(path) for path in tracked() if places.search(path.read_bytes())]
    assert found == []


def test_the_commands_of_the_readme_are_there():
    commands = set(re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / "README.md").read_text()))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands
    assert commands <= targets
