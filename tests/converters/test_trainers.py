"""The programs that train the examples' models."""

import pytest

from support.examples import ROOT, check_usage

TRAINERS = sorted(ROOT.glob("examples/train_*.py"))


@pytest.mark.parametrize("path", TRAINERS, ids=lambda path: path.name)
def test_every_trainer_says_how_it_is_used(path):
    check_usage(path)
