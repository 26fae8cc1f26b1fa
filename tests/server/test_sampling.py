"""Which batches are spot-checked, and after how many affected batches a rare dependence is found."""

import random

import numpy as np
import pytest

from onnxserve_server.scheduling.sampling import Sampling

RUN = 0.001


class Serving:
    """Batches of one model, one after the other: each takes a millisecond, and a check a part of that."""

    def __init__(self, share=0.02, cost=0.5, seed=0):
        self.sampling = Sampling(share, random.Random(seed).random)
        self.cost = cost * RUN
        self.seconds = self.checked = 0.0

    def serve(self, batches, shape=0):
        """Return which of so many batches are checked."""
        return [number for number in range(batches) if self.checks(shape)]

    def checks(self, shape=0):
        self.seconds += RUN
        if not self.sampling.wants(shape, self.seconds):
            return False
        self.sampling.note(self.cost)
        self.checked += self.cost
        return True


def batches_until_found(rng, cost, size, affected):
    """How many affected batches there were when a check took a row of one that is not the trigger's own."""
    serving = Serving(cost=cost, seed=rng.random())
    serving.serve(200)
    count = 0
    while True:
        is_affected = rng.random() < affected
        count += is_affected
        if serving.checks() and is_affected and rng.randrange(size) > 0:
            return count


@pytest.mark.parametrize("cost", [0.03, 0.2, 1.0, 3.0])
def test_checks_take_their_share_of_the_run_time_and_no_more(cost):
    serving = Serving(cost=cost)
    serving.serve(200_000)
    share = serving.checked / serving.seconds
    assert 0.0175 < share <= 0.02


@pytest.mark.parametrize(("share", "cost"), [(0.02, 0.5), (0.0001, 3.0)])
def test_the_first_batches_of_each_shape_are_checked_whatever_the_share(share, cost):
    serving = Serving(share=share, cost=cost)
    assert [serving.serve(20, shape)[:2] for shape in range(20)] == [[0, 1]] * 20


def test_the_first_batches_of_many_shapes_take_half_a_second_beyond_the_share_at_most():
    serving = Serving(cost=1.0)
    for shape in range(5000):
        serving.checks(shape)
    assert 0.5 <= serving.checked <= 0.02 * serving.seconds + 0.5 + 2 * RUN


def test_no_pattern_of_batches_escapes():
    """Each batch of a period is checked about as often as any other one."""
    serving = Serving(cost=0.5)
    counts = np.bincount([number % 25 for number in serving.serve(200_000)], minlength=25)
    assert counts.min() > 0.7 * counts.mean()


@pytest.mark.parametrize(
    ("cost", "size", "promised"),
    [(0.03, 32, 8), (0.125, 8, 25), (0.5, 8, 100), (1.0, 8, 200), (1.0, 2, 350), (3.0, 8, 600)],
)
def test_a_rare_dependence_is_found_within_as_many_affected_batches_as_the_docs_promise(cost, size, promised):
    rng = random.Random(0)
    found = [batches_until_found(rng, cost, size, affected=0.2) for _ in range(300)]
    assert np.quantile(found, 0.95) <= promised
