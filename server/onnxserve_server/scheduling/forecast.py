"""How long the next run will take, from the last ones: by row shape and number of rows, following changes both ways."""

import math
from collections import OrderedDict, deque
from collections.abc import Callable

_RECENT = 32  # runs of one size that count
_QUANTILE = 0.95  # of them; the two slowest of 32 are outliers: a collection of garbage, a burst of a neighbour
_FADING = 0.99  # of the longest run, with each run
_MAX_SHAPES = 64  # row shapes that are remembered, those that ran last
_PROBE_AFTER = 1.0  # seconds without a run of a size, after which its estimate is doubted ...
_PROBE_SHARE = 4  # ... and at least so many times the estimate: trials take a fifth of the time at most


class Forecast:
    """Estimates of runs, in seconds. Not thread-safe: the batcher has a lock.

    Sizes are powers of two: a run of 33 rows is estimated by the runs of 33 to 64 rows. What has not run at a size is
    scaled from the nearest size at which it has, in proportion to the rows. A row shape that has not run is estimated
    by the fastest runs of all others, and before the first run everything takes no time: one run tells more.

    Attributes:
        longest: what a run of `max_rows` rows would take at most, by the runs of late: who has more time than that
            needs no closer look.
    """

    def __init__(self, max_rows: int = 1) -> None:
        self.longest = 0.0
        self._max_rows = max_rows
        self._all = _Shape()
        self._shapes: OrderedDict[int, _Shape] = OrderedDict()  # by the hash of a key: a key can hold a whole tensor

    def likely(self, key: object, rows: int) -> float:
        """Return how long a run takes at most, but for outliers.

        Args:
            key: of its jobs: their row shape.
            rows: of the run; none counts as one.
        """
        shape = self._shape(key)
        return self._all.estimate(rows, _Size.fastest) if shape is None else shape.estimate(rows, _Size.slowest)

    def mean(self, key: object, rows: int) -> float:
        """Return how long such runs take on average."""
        return (self._shape(key) or self._all).estimate(rows, _Size.mean)

    def begin(self, key: object, rows: int, now: float) -> None:
        """Note that a run begins; its size is not doubted for a while."""
        if shape := self._shape(key):
            shape.size(rows).touched = now

    def note(self, key: object, rows: int, seconds: float, now: float) -> None:
        """Take in a run that succeeded."""
        full, faded = seconds * self._max_rows / (rows or 1), self.longest * _FADING
        self.longest = max(faded, full)
        self._all.size(rows).note(rows, seconds, now)
        if key is not None:
            self._noted_shape(hash(key)).size(rows).note(rows, seconds, now)

    def note_stopped(self, key: object, rows: int, seconds: float, now: float) -> None:
        """Take in a run that was stopped before its end, for want of anybody who waited: it takes longer than that."""
        if seconds > self.likely(key, rows):
            self.note(key, rows, seconds, now)

    def is_doubtful(self, key: object, rows: int, now: float) -> bool:
        """Whether the estimate is so old that a run that it speaks against is worth a trial."""
        shape = self._shape(key)
        return shape is None or now - shape.size(rows).touched >= max(
            _PROBE_AFTER, _PROBE_SHARE * self.likely(key, rows)
        )

    def try_again(self, key: object, rows: int, now: float) -> bool:
        """Whether a run may be tried although the estimate speaks against it; the next one after a while.

        A trial that is faster than the estimate replaces it. So neither a slow first run nor a bad minute keeps callers
        out for longer than that.
        """
        if not self.is_doubtful(key, rows, now):
            return False
        if shape := self._shape(key):
            size = shape.size(rows)
            size.touched, size.is_tried = now, True
        return True

    def _noted_shape(self, hashed: int) -> "_Shape":
        """Return a row shape that has just run, in the place of the one that ran longest ago if there are too many."""
        shape = self._shapes.get(hashed)
        if shape is None:
            shape = self._shapes[hashed] = _Shape()
            if len(self._shapes) > _MAX_SHAPES:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(hashed)
        return shape

    def _shape(self, key: object) -> "_Shape | None":
        return self._all if key is None else self._shapes.get(hash(key))


class _Size:
    """The last runs of one size. Noting one costs little, as nobody may ask: most callers have time enough."""

    __slots__ = ("_recent", "_slowest", "is_tried", "rows", "touched")

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._slowest: float | None = None  # worked out when it is needed
        self.rows = 1  # of the last one
        self.touched = -math.inf  # when the last one began or ended
        self.is_tried = False  # by a run that the estimate spoke against

    def note(self, rows: int, seconds: float, now: float) -> None:
        """Take in a run."""
        if self.is_tried and self._recent and seconds < self.slowest():
            self._recent.clear()
        self._recent.append(seconds)
        self._slowest = None
        self.rows, self.touched, self.is_tried = rows or 1, now, False

    def slowest(self) -> float:
        """Return the slowest time but for outliers; twice the median where a part of the runs is far slower than that.

        Where it depends on the values how long a run takes, most can be done in time although one in ten cannot.
        """
        if self._slowest is None:
            ordered = sorted(self._recent)
            last = len(ordered) - 1
            self._slowest = min(ordered[int(_QUANTILE * last)], 2 * ordered[last // 2])
        return self._slowest

    def fastest(self) -> float:
        """Return the fastest time."""
        return min(self._recent)

    def mean(self) -> float:
        """Return the average time."""
        return sum(self._recent) / len(self._recent)

    def __bool__(self) -> bool:
        return bool(self._recent)


class _Shape:
    """The runs of one row shape, by the number of bits of their rows."""

    __slots__ = ("_sizes",)

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}

    def size(self, rows: int) -> _Size:
        """Return the runs of so many rows or a few less."""
        bits = (rows - 1).bit_length() if rows else 0
        size = self._sizes.get(bits)
        if size is None:
            size = self._sizes[bits] = _Size()
        return size

    def estimate(self, rows: int, statistic: Callable[[_Size], float]) -> float:
        """Return a statistic of the runs of so many rows; 0 where nothing has run."""
        size = self.size(rows)
        if size:
            return statistic(size)
        known = [other for other in self._sizes.values() if other]
        if not known:
            return 0.0
        nearest = min(known, key=lambda other: max(other.rows, rows) / min(other.rows, max(rows, 1)))
        return statistic(nearest) * rows / nearest.rows
