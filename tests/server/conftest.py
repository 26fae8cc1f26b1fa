"""Streams without a network."""

import pytest

from support.calls import Stage


@pytest.fixture
def stage(clock):
    """Make an engine with streams, of such a window and such other arguments; afterwards nothing may be left in it."""
    made = []

    def make(**fields):
        made.append(Stage(clock, **fields))
        return made[-1]

    yield make
    for each in made:
        each.check_nothing_is_left()
