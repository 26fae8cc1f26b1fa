"""How long a model's next run takes at most, so that a thread that others wait for may run it itself.

The longest of the last runs counts, of whatever row shape, and nothing is known before the first. What forecast.py
says, to admit jobs and to form batches, is what a run is likely to take.
"""

import math

_RECENT = 16


class RunTimes:
    """The rows and seconds of the last runs."""

    def __init__(self) -> None:
        self._count = 0
        # Number, rows and seconds of each. A run is left out that a later one of as many rows or more outlasts: it
        # makes no estimate longer.
        self._runs: list[tuple[int, int, float]] = []

    def note(self, rows: int, seconds: float) -> None:
        """Take in a run."""
        self._count += 1
        oldest = self._count - _RECENT
        self._runs = [run for run in self._runs if run[0] > oldest and (run[1] > rows or run[2] > seconds)]
        self._runs.append((self._count, rows, seconds))

    def at_most(self, rows: int) -> float:
        """Return how long a run of so many rows should take at most, in seconds; inf while nothing is known.

        It is the longest of the last runs of as many rows or more. Where all had fewer, the time of the largest is
        scaled up: time never grows faster than rows.
        """
        longest, largest_rows, largest_seconds = 0.0, 0, 0.0
        for _, known, seconds in self._runs:
            if known >= rows and seconds > longest:
                longest = seconds
            if known > largest_rows or (known == largest_rows and seconds > largest_seconds):
                largest_rows, largest_seconds = known, seconds
        if longest:
            return longest
        return largest_seconds * rows / largest_rows if largest_rows else math.inf
