"""What the last runs of one size and row shape say of the next."""

from onnxserve_server.scheduling.forecast import Forecast


def forecast(*runs, key=None):
    made = Forecast()
    for rows, seconds in runs:
        made.note(key, rows, seconds, 100.0)
    return made


def test_before_the_first_run_everything_is_possible():
    assert forecast().likely(None, 64) == forecast().mean("shape", 1) == 0.0


def test_a_size_is_estimated_by_its_own_runs():
    known = forecast((1, 0.01), (64, 0.2), (8, 0.05))
    assert [known.likely(None, rows) for rows in (0, 1, 7, 40)] == [0.01, 0.01, 0.05, 0.2]


def test_a_size_that_has_not_run_is_scaled_from_the_nearest():
    known = forecast((1, 0.01), (16, 0.04))
    assert [known.likely(None, rows) for rows in (2, 8, 64)] == [0.02, 0.02, 0.16]


def test_it_follows_runs_that_become_slower_at_once_and_faster_after_as_many_as_it_remembers():
    known = forecast(*[(1, 0.03)] * 100, *[(1, 0.05)] * 3)
    assert known.likely(None, 1) == 0.05
    for _ in range(32):
        known.note(None, 1, 0.01, 100.0)
    assert known.likely(None, 1) == 0.01


def test_where_some_runs_are_far_slower_the_others_count():
    known = forecast(*[(1, 0.01), (1, 0.01), (1, 5.0)] * 11)
    assert known.likely(None, 1) == 0.02
    for _ in range(10):
        known.note(None, 1, 5.0, 100.0)
    assert known.likely(None, 1) == 5.0


def test_row_shapes_are_apart_and_an_unknown_one_is_taken_for_the_fastest():
    known = forecast((1, 0.5), key="long")
    known.note("short", 1, 0.01, 100.0)
    assert [known.likely(key, 1) for key in ("long", "short", "new")] == [0.5, 0.01, 0.01]


def test_only_so_many_row_shapes_are_remembered():
    known = Forecast()
    for length in range(1000):
        known.note(("length", length), 1, 0.01, 100.0)
    assert len(known._shapes) == 64


def test_an_estimate_is_doubted_once_after_a_while_and_a_faster_trial_replaces_it():
    known = forecast(*[(1, 3.0)] * 32)
    assert not known.try_again(None, 1, 111.9)
    assert known.try_again(None, 1, 112.0)
    assert not known.is_doubtful(None, 1, 112.1)
    known.note(None, 1, 0.01, 112.5)
    assert known.likely(None, 1) == 0.01


def test_a_trial_that_is_as_slow_changes_nothing():
    known = forecast(*[(1, 3.0)] * 32)
    assert known.try_again(None, 1, 112.0)
    known.note_stopped(None, 1, 0.5, 112.5)
    assert known.likely(None, 1) == 3.0


def test_a_size_that_has_never_run_may_be_tried():
    known = forecast((1, 1.0))
    assert known.try_again(None, 64, 100.0)
    assert not known.try_again(None, 64, 100.5)
