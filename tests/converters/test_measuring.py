import pytest

from onnxserve_converters.measuring import judge


def times(**after):
    """Runs that took 100 µs before, by number of rows."""
    return {name.removeprefix("b"): {"before": 100.0, "after": float(time)} for name, time in after.items()}


@pytest.mark.parametrize(
    ("after_bytes", "taken", "pays", "why"),
    [
        (30, times(b1=100, b16=100), True, "70% smaller, no faster"),
        (100, times(b1=100, b16=50), True, "no smaller, 2.0 times faster at batch 16"),
        (30, times(b1=40, b16=50), True, "70% smaller, 2.5 times faster at batch 1, 2.0 times faster at batch 16"),
        (95, times(b1=90, b16=95), False, "5% smaller, no faster"),
        (130, times(b1=100, b16=110), False, "30% larger, no faster"),
        (30, times(b1=150, b16=100), False, "70% smaller, 1.5 times slower at batch 1"),
        (30, times(b1=50, b16=130), False, "70% smaller, 2.0 times faster at batch 1, 1.3 times slower at batch 16"),
        (130, times(b4=50), True, "30% larger, 2.0 times faster at batch 4"),
    ],
)
def test_a_step_pays_that_makes_smaller_or_faster_and_nowhere_slower(after_bytes, taken, pays, why):
    assert judge({"before": 100, "after": after_bytes}, taken, "") == (pays, why)


def test_no_step_pays_after_which_requests_share_no_runs():
    pays, why = judge({"before": 100, "after": 30}, times(b1=50), "its rows depend on one another")
    assert not pays
    assert why.endswith("and requests can no longer be batched: its rows depend on one another")
