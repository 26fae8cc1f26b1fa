"""How requests come: from callers who wait for their answers, or at times that depend on no answer."""

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SEED = 0


class Arrivals(enum.StrEnum):
    """When the requests of an open loop are due."""

    POISSON = "poisson"
    """Independent of one another, as those of many callers are."""
    CONSTANT = "constant"
    """One after the other, with the same time between."""


@dataclass(frozen=True)
class Callers:
    """A closed loop: so many callers, each of which sends its next request when the last one is answered."""

    number: int

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.number} caller{'s' if self.number > 1 else ''}"


@dataclass(frozen=True)
class Rate:
    """An open loop: so many requests a second, whether answers come or not."""

    per_second: float
    arrivals: Arrivals = Arrivals.POISSON

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.per_second:g}/s"

    def times(self, seconds: float) -> npt.NDArray[np.float64]:
        """Return when the requests of a stretch of time are due: ascending, in seconds from its begin.

        Their number is the rate times the seconds, at least 1. Poisson arrivals are those of a Poisson process that
        brings just this number: independent of one another, and the same ones each time.
        """
        number = max(1, round(self.per_second * seconds))
        if self.arrivals is Arrivals.CONSTANT:
            return np.arange(number) / self.per_second
        return np.sort(np.random.default_rng(_SEED).uniform(0, seconds, number))


Load = Callers | Rate
