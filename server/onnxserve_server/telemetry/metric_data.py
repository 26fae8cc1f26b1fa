"""The metrics of one collection, in no particular export format."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxserve_server.telemetry.catalogue import Instrument

Labels = tuple[str, ...]
"""The values of an instrument's attributes, in its order."""


class Exemplar(NamedTuple):
    """One traced observation: its value, Unix time in seconds, and the ids of its trace and span."""

    value: float
    time: float
    trace_id: str
    span_id: str


class Distribution:
    """The observations of a histogram with one set of labels. `counts` is by bucket; the last has no upper bound."""

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds)
        self.counts = np.zeros(len(bounds) + 1, np.int64)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}  # the latest, by bucket

    def add(self, values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> None:
        """Note observations, float64 [N]; a value that equals a bound belongs below it."""
        buckets = np.searchsorted(self._bounds, values)
        self.counts += np.bincount(buckets, minlength=len(self.counts))
        self.total += float(values.sum())

    def add_exemplar(self, exemplar: Exemplar) -> None:
        """Note an exemplar of an observation."""
        self.exemplars[bisect_left(self._bounds, exemplar.value)] = exemplar

    def copy(self) -> "Distribution":
        """Return a copy as of now."""
        twin = Distribution(self._bounds)  # type: ignore[arg-type]
        twin.counts, twin.total, twin.exemplars = self.counts.copy(), self.total, dict(self.exemplars)
        return twin


@dataclass(frozen=True, slots=True)
class Metric:
    """The points of one instrument at one moment."""

    instrument: Instrument
    points: Sequence[tuple[Labels, float | Distribution]]
