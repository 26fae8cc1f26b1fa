"""What the last runs tell about the next."""

import math

from onnxserve_server.scheduling.estimate import RunTimes


def times(*runs):
    made = RunTimes()
    for rows, seconds in runs:
        made.note(rows, seconds)
    return made


def test_nothing_is_known_before_the_first_run():
    assert times().at_most(1) == math.inf


def test_fewer_rows_take_at_most_what_the_longest_run_of_as_many_or_more_took():
    assert times((64, 0.003), (16, 0.002), (1, 0.5)).at_most(16) == 0.003


def test_more_rows_than_ever_are_scaled_up_from_the_largest_run():
    assert times((1, 0.001), (4, 0.002)).at_most(64) == 0.032


def test_of_runs_of_one_size_the_longest_counts():
    assert times((4, 0.002), (4, 0.003)).at_most(8) == 0.006


def test_old_runs_are_forgotten():
    known = times((1, 9.0))
    for _ in range(16):
        known.note(1, 0.001)
    assert known.at_most(1) == 0.001
