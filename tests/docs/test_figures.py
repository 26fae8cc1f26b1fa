"""Figures that the guides give are those of the code."""

import random

from onnxserve._retrying import retry_delay
from onnxserve_server.edge import unsent
from support.cluster import ROOT


def guide(name):
    return " ".join((ROOT / "docs/guides" / name).read_text().split())


def test_the_longest_pause_between_two_attempts(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    longest = max(retry_delay(failures, asked) for failures in range(1, 50) for asked in (None, 0.1, 1.0, 2.0))
    assert f"growing pauses of at most {longest} seconds" in guide("call.md")
    assert retry_delay(50, 8.0) == 8 * 1.25


def test_from_where_on_answers_that_are_not_read_are_given_up_or_refused():
    text = guide("exposure.md")
    assert f"for {unsent._GRACE} seconds at least" in text
    assert f"more than {unsent.COUNTED_FROM:,} bytes, of streams of more than {unsent.STREAMED_COUNTED_FROM:,}" in text
    assert unsent._REFUSING == 1.25
