"""Which batches are spot-checked: the first of each shape, then as many as a share of the run time pays for."""

import random
from collections.abc import Callable

_FIRST = 2  # batches of each shape
_MAX_SHAPES = 1024  # whose first batches are known; those of further shapes are like any others
_MAX_FIRST_SECONDS = 0.5  # that checks of first batches, and those with a reason, may take in all beyond the share
_PAID = 0.9  # of the share pays for the other checks: the rest makes up for the first ones
_SPREAD = 16  # checks' worth of the share over which the moment of a check is spread


class Sampling:
    """Decides for one model; what is decided is random, so that no pattern of callers can escape it.

    Args:
        share: of the run time that checks may take.
        draw: returns a number from 0 up to 1.
    """

    def __init__(self, share: float, draw: Callable[[], float] = random.random) -> None:
        self._paid_share = _PAID * share
        self._draw = draw
        self._known: dict[int, int] = {}  # checks of first batches by shape
        self._first_seconds = 0.0  # of the checks that the share need not pay for
        self._seconds = 0.0  # of the others, which the share pays for
        self._checks = 0
        self._is_first = False  # whether the check that was wanted last is one of these

    def wants(self, shape: int, run_seconds: float) -> bool:
        """Return whether to check a batch; note() follows when it has been checked.

        Args:
            shape: stands for the shape of its rows.
            run_seconds: what all runs of the model have taken so far, with this one.
        """
        known = self._known.get(shape, 0 if len(self._known) < _MAX_SHAPES else _FIRST)
        self._is_first = known < _FIRST and self._first_seconds < _MAX_FIRST_SECONDS
        if self._is_first:
            self._known[shape] = known + 1
            return True
        slack = self._slack(run_seconds)
        if slack <= 0:
            return False
        cost = (self._first_seconds + self._seconds) / max(1, self._checks)
        return self._draw() * _SPREAD * cost < slack

    def grants(self, run_seconds: float) -> bool:
        """Return whether to check a batch that there is a reason to check; note() follows then.

        Args:
            run_seconds: see wants().
        """
        self._is_first = self._first_seconds < _MAX_FIRST_SECONDS
        return self._is_first or self._slack(run_seconds) > 0

    def note(self, seconds: float) -> None:
        """Take in what the check that was wanted last has taken."""
        self._checks += 1
        if self._is_first:
            self._first_seconds += seconds
        else:
            self._seconds += seconds

    def _slack(self, run_seconds: float) -> float:
        return self._paid_share * run_seconds - self._seconds
