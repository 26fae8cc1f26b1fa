"""Which jobs can be done in time: those that are admitted to a queue, and those that share the next run."""

import math
from collections.abc import Collection, Mapping
from itertools import islice

from onnxserve_server.core import Job
from onnxserve_server.scheduling.batch import Batch
from onnxserve_server.scheduling.bucket import Bucket
from onnxserve_server.scheduling.forecast import Forecast
from onnxserve_server.spec import BatchPolicy

# The wait is taken to be so many times its estimate, so that those admitted last are not at the mercy of each run, nor
# of the time that their request and its answer are on their way, which the server does not see.
_WAIT_MARGIN = 1.25
_MAX_BUCKETS = 16  # whose jobs are estimated one by one; further ones as their average


class Planner:
    """Estimates when the jobs of one model would be done. Not thread-safe: the batcher has a lock.

    Attributes:
        policy: how jobs are put together; it may be replaced by one that batches no longer.
        forecast: what runs take.
    """

    def __init__(self, policy: BatchPolicy, instances: int) -> None:
        self.policy = policy
        self.forecast = Forecast(policy.max_rows if policy.enabled else 1)
        self._instances = instances

    def rows_within(self, key: object, seconds: float) -> int:
        """Return the rows of a full run of jobs that have so many seconds in all.

        A run may take half of that: a caller who comes just after it has begun can still be served by the next.
        """
        rows = self._max_rows()
        if seconds / 2 >= self.forecast.longest:
            return rows
        while rows > 1 and self.forecast.likely(key, rows) > seconds / 2:
            rows //= 2
        return rows

    def refusal(
        self, job: Job, buckets: Mapping[object, Bucket], waiting: int, running: Collection[Batch]
    ) -> float | None:
        """Return how many seconds a job would take from its arrival, if that is too long; None: it is admitted.

        Args:
            job: it.
            buckets: the jobs that wait.
            waiting: their rows.
            running: the batches that run.
        """
        key, rows = job.key, job.rows
        if job.deadline - job.arrived > self.forecast.longest * (waiting + len(running) + 1) * _WAIT_MARGIN:
            return None
        ahead = 0.0
        if buckets or running:
            ahead, rows = self._ahead(job, buckets)
            ahead = _WAIT_MARGIN * (ahead + self._remaining(running, job.arrived)) / self._instances
        needed = ahead + self.forecast.likely(key, rows)
        if job.arrived + needed <= job.deadline:
            return None
        is_tried = job.arrived < job.deadline and self.forecast.is_doubtful(key, rows, job.arrived)
        return None if is_tried else needed

    def seconds_until_empty(self, rows: int) -> float:
        """Return how long so many waiting rows take, and one run more."""
        full = self._max_rows()
        return self.forecast.mean(None, full) * (1 + rows // full) / self._instances

    def _max_rows(self) -> int:
        return self.policy.max_rows if self.policy.enabled else 1

    def _ahead(self, job: Job, buckets: Mapping[object, Bucket]) -> tuple[float, int]:
        """Return the seconds that those ahead of a job run before its own run, and the rows of that.

        Jobs of lower priority are not ahead of it. Where they have waited so long that they are, the choice of the jobs
        for a run finds out.
        """
        full = self.rows_within(job.key, job.deadline - job.arrived)
        own = buckets.get(job.key)
        runs, rest = divmod(own.rows_ahead(job.priority), full) if own else (0, 0)
        seconds = runs * self.forecast.mean(job.key, full)
        if own is None or len(buckets) > 1:
            seconds += self._others(buckets, own, job.priority, full)
        if runs:
            return seconds, max(full, job.rows)
        if rest + job.rows > full:
            return seconds + self.forecast.mean(job.key, rest), job.rows
        return seconds, rest + job.rows

    def _others(self, buckets: Mapping[object, Bucket], own: Bucket | None, priority: int, full: int) -> float:
        """Return the seconds that the jobs of other row shapes take, of that priority or a higher one."""
        others = [(key, bucket) for key, bucket in islice(buckets.items(), _MAX_BUCKETS) if bucket is not own]
        seconds = 0.0
        for key, bucket in others:
            runs, rest = divmod(bucket.rows_ahead(priority), full)
            seconds += runs * self.forecast.mean(key, full)
            if rest:
                seconds += self.forecast.mean(key, rest)
        return seconds * (len(buckets) - (own is not None)) / max(len(others), 1)

    def _remaining(self, running: Collection[Batch], now: float) -> float:
        """Return the seconds that the runs in progress still take."""
        mean = self.forecast.mean
        return sum([max(0.0, mean(batch.key, batch.rows) - (now - batch.formed)) for batch in running])


class Draft:
    """A batch while it is filled from a bucket: which jobs of it are to be taken.

    When more wait than one run takes, runs are full, and who cannot finish within a full one is late. Otherwise a run
    is as small as the most urgent of its jobs needs.

    Attributes:
        jobs: those that were taken.
        rows: theirs.
        enough: a deadline that any run keeps.
    """

    __slots__ = ("_full", "_full_seconds", "_now", "_planner", "_tightest", "enough", "jobs", "rows")

    def __init__(self, planner: Planner, bucket: Bucket, now: float) -> None:
        head = bucket.head()
        self._planner = planner
        self._now = now
        self.enough = now + planner.forecast.longest
        self._full = planner.rows_within(head.key, head.deadline - head.arrived)
        self._full_seconds: float | None = None
        if bucket.rows > self._full:
            self._full_seconds = planner.forecast.likely(head.key, self._full)
        self._tightest = math.inf
        self.jobs: list[Job] = []
        self.rows = 0

    def is_late(self, job: Job) -> bool:
        """Whether a job cannot be done in time, one that has not `enough` of it.

        A trial of an old estimate is never late, unless its time is over.
        """
        if job.deadline <= self._now:
            return True
        forecast, full = self._planner.forecast, self._full_seconds
        rows = job.rows if full is None else max(job.rows, self._full)
        seconds = forecast.likely(job.key, rows) if full is None or job.rows > self._full else full
        if self._now + seconds <= job.deadline:
            return False
        if not forecast.try_again(job.key, rows, self._now):
            return True
        if full is not None:
            self._full_seconds = 0.0  # the others of the run are tried with it
        return False

    def has_room(self, job: Job) -> bool:
        """Whether one more job can be added without making the run too large, or too long for one of its jobs."""
        rows = self.rows + job.rows
        if rows > self._full or not self._planner.policy.enabled:
            return False
        tightest = min(self._tightest, job.deadline)
        if self._full_seconds is not None or tightest > self.enough:
            return True
        return self._now + self._planner.forecast.likely(job.key, rows) <= tightest

    def add(self, job: Job) -> None:
        """Take a job."""
        self.jobs.append(job)
        self.rows += job.rows
        self._tightest = min(self._tightest, job.deadline)
