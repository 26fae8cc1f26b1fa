"""An estimate of a model's next run from its last ones."""

import math
from collections import deque

_RECENT = 16


class RunTimes:
    """The rows and seconds of the last runs."""

    def __init__(self) -> None:
        self._runs: deque[tuple[int, float]] = deque(maxlen=_RECENT)

    def note(self, rows: int, seconds: float) -> None:
        """Take in a run."""
        self._runs.append((rows, seconds))

    def at_most(self, rows: int) -> float:
        """Return how long a run of so many rows should take at most, in seconds; inf while nothing is known.

        It is the longest of the last runs of as many rows or more. Where all had fewer, the time of the largest is
        scaled up: time never grows faster than rows.
        """
        longest, largest_rows, largest_seconds = 0.0, 0, 0.0
        for known, seconds in self._runs:
            if known >= rows:
                longest = max(longest, seconds)
            if known > largest_rows or (known == largest_rows and seconds > largest_seconds):
                largest_rows, largest_seconds = known, seconds
        if longest:
            return longest
        return largest_seconds * rows / largest_rows if largest_rows else math.inf
