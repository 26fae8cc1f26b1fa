"""The waiting jobs of one row shape, in the order in which they may run."""

from collections import OrderedDict

from onnxserve_server.core import Job


class Bucket:
    """Jobs that may share a batch, by rank: first come first served, higher priority ahead, waiting counted in.

    The rank of a job is its time of arrival less its priority times the ageing interval. That is priority with ageing
    without ever touching a waiting job: a job of priority 1 overtakes what came less than one interval before it, and
    nothing older. Within one priority the rank follows arrival, so each level is a plain queue and only heads compare.
    """

    __slots__ = ("_levels", "_rows", "rows")

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[Job, None]] = {}
        self._rows: dict[int, int] = {}  # by priority
        self.rows = 0

    def push(self, job: Job) -> None:
        """Add a job at the end of its level."""
        level = self._levels.get(job.priority)
        if level is None:
            level = self._levels[job.priority] = OrderedDict()
            self._rows[job.priority] = 0
        level[job] = None
        self._rows[job.priority] += job.rows
        self.rows += job.rows

    def head(self) -> Job:
        """Return the job that is next; the bucket must not be empty."""
        levels = self._levels.values()
        if len(levels) == 1:
            return next(iter(next(iter(levels))))
        return min((next(iter(level)) for level in levels), key=lambda job: job.rank)

    def remove(self, job: Job) -> None:
        """Take a job out, wherever it stands."""
        level = self._levels[job.priority]
        del level[job]
        if not level:
            del self._levels[job.priority], self._rows[job.priority]
        else:
            self._rows[job.priority] -= job.rows
        self.rows -= job.rows

    def rows_ahead(self, priority: int) -> int:
        """Return the rows of the jobs of that priority or a higher one."""
        return sum([rows for level, rows in self._rows.items() if level >= priority])

    def oldest_arrival(self) -> float:
        """Return when the job that waits longest arrived; the bucket must not be empty."""
        return min(next(iter(level)).arrived for level in self._levels.values())

    def jobs(self) -> list[Job]:
        """Return all waiting jobs, in no particular order."""
        return [job for level in self._levels.values() for job in level]

    def __bool__(self) -> bool:
        return bool(self._levels)
