"""How requests arrive: from callers that wait for their answers, or at times that do not depend on answers."""

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SEED = 0


class Arrivals(enum.StrEnum):
    """When the requests of an open loop are due."""

    POISSON = "poisson"
    """At random times, independent of one another, like the requests of many callers."""
    CONSTANT = "constant"
    """At equal intervals."""


@dataclass(frozen=True)
class Callers:
    """A closed loop: a number of callers, each of which sends its next request when the last one is answered."""

    number: int

    def __str__(self) -> str:
        """Return the load in words, such as "4 callers"."""
        return f"{self.number} caller{'s' if self.number > 1 else ''}"


@dataclass(frozen=True)
class Rate:
    """An open loop: requests at a rate, whether answers arrive or not."""

    per_second: float
    arrivals: Arrivals = Arrivals.POISSON

    def __str__(self) -> str:
        """Return the load in words, such as "100/s"."""
        return f"{self.per_second:g}/s"

    def times(self, seconds: float) -> npt.NDArray[np.float64]:
        """Return when the requests of an interval are due, in ascending order, in seconds from its start.

        Their number is the rate times the seconds, at least 1. Poisson arrivals are those of a Poisson process with
        exactly this number of arrivals: independent of one another, and the same in every measurement.
        """
        number = max(1, round(self.per_second * seconds))
        if self.arrivals is Arrivals.CONSTANT:
            return np.arange(number) / self.per_second
        return np.sort(np.random.default_rng(_SEED).uniform(0, seconds, number))


Load = Callers | Rate
