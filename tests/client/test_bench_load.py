import numpy as np
import pytest

from onnxserve._bench.load import Arrivals, Callers, Rate


def test_constant_arrivals_are_the_same_time_apart():
    np.testing.assert_allclose(Rate(4, Arrivals.CONSTANT).times(1.5), [0, 0.25, 0.5, 0.75, 1, 1.25])


def test_poisson_arrivals_are_as_many_as_the_rate_says_and_in_their_time():
    times = Rate(1000).times(10)
    assert len(times) == 10_000
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] < times[-1] < 10


def test_poisson_arrivals_are_independent():
    gaps = np.diff(Rate(1000).times(10))
    # Exponential: the deviation is the mean, and the share of gaps beyond the mean is 1/e.
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.02)
    assert np.corrcoef(gaps[:-1], gaps[1:])[0, 1] == pytest.approx(0, abs=0.05)


def test_arrivals_are_the_same_each_time():
    np.testing.assert_array_equal(Rate(50).times(2), Rate(50).times(2))


def test_a_rate_below_one_in_the_time_sends_one():
    assert len(Rate(0.1).times(2)) == 1


def test_loads_are_described_in_words():
    assert [str(load) for load in (Callers(1), Callers(16), Rate(100), Rate(0.5))] == [
        "1 caller",
        "16 callers",
        "100/s",
        "0.5/s",
    ]
