"""The queue of one model: bounded, in buckets by row shape, and emptied into batches by whoever executes them.

Nobody watches the clock here: an executor that becomes free takes what waits ("natural batching"). Under load batches
grow because jobs arrive while the last batch runs; a lone request never waits for others. A delay can be configured.

The lock guards the books (buckets, rows, bytes, idle executors). It is never held while a job is ended, because
ending a job calls into the transport.
"""

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from onnxserve_server.core import Batch, BatchPolicy, Clock, Job
from onnxserve_server.errors import DeadlineExceeded, Draining, QueueFull
from onnxserve_server.scheduling.bucket import Bucket

_RECENT_RUNS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a batcher holds at one moment: waiting jobs, rows and bytes, and jobs in running batches."""

    queued_jobs: int
    queued_rows: int
    queued_bytes: int
    running_jobs: int


class Batcher:
    """Queues jobs and hands them out as batches. submit() and leave() may be called from any thread.

    Args:
        policy: limits and the order of the queue.
        clock: tells the time in seconds.
        watch_deadline: told the deadline of each job that has one, so that expire() is called in time.
        instances: how many executors take batches, for the estimate of when a job could be done.
    """

    def __init__(
        self, policy: BatchPolicy, clock: Clock, watch_deadline: Callable[[float], None], instances: int = 1
    ) -> None:
        self.policy = policy
        self._clock = clock
        self._watch_deadline = watch_deadline
        self._instances = instances
        self._lock = threading.Lock()
        self._buckets: dict[object, Bucket] = {}
        self._running: set[Batch] = set()
        self._idle: list[
            _Wake
        ] = []  # executors asleep, the one that fell asleep last is woken first: its caches are warm
        self._delaying = False  # an executor sleeps only until the delay of a waiting job is over
        self._queued_rows = 0
        self._queued_bytes = 0
        self._closed = False
        self._recent: deque[float] = deque(maxlen=_RECENT_RUNS)
        self._shortest_run = 0.0

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFull: as many rows or bytes wait as may.
            DeadlineExceeded: the job could not be done in time even if it ran as fast as the fastest of the last runs.
            Draining: the batcher has been closed.
        """
        policy = self.policy
        with self._lock:
            if (
                self._queued_rows + job.rows > policy.max_queue_rows
                or self._queued_bytes + job.nbytes > policy.max_queue_bytes
            ):
                self._refuse_for_space(job)
            if job.deadline != math.inf:
                self._refuse_for_time(job)
            if self._closed:
                raise Draining("the model is being stopped")
            bucket = self._buckets.get(job.key)
            if bucket is None:
                bucket = self._buckets[job.key] = Bucket()
            job.leave = self.leave
            job.place = bucket
            bucket.push(job)
            self._queued_rows += job.rows
            self._queued_bytes += job.nbytes
            wake = None
            if self._idle and (not self._delaying or bucket.rows >= policy.max_rows):
                wake = self._idle.pop()
                self._delaying = False
        if wake is not None:
            wake.set()
        if job.deadline != math.inf:
            self._watch_deadline(job.deadline)

    def leave(self, job: Job) -> None:
        """Forget a job that has ended otherwise. A batch whose last member leaves is stopped."""
        abandoned = None
        with self._lock:
            place, job.place = job.place, None
            if isinstance(place, Bucket):
                self._unqueue(job, place)
            elif isinstance(place, Batch):
                place.live -= 1
                if place.live == 0:
                    abandoned = place
        if abandoned is not None:
            abandoned.abandon()

    def expire(self, now: float) -> float:
        """End the jobs, waiting or running, whose deadline has passed; return the next deadline, inf for none."""
        next_deadline, expired = math.inf, []
        with self._lock:
            waiting = [job for bucket in self._buckets.values() for job in bucket.jobs()]
            running = [job for batch in self._running for job in batch.jobs if not job.ended]
        for job in waiting + running:
            if job.deadline <= now:
                expired.append(job)
            elif job.deadline < next_deadline:
                next_deadline = job.deadline
        for job in expired:
            job.withdraw(DeadlineExceeded("the deadline passed before the model had run"))
        return next_deadline

    def take(self) -> Batch | None:
        """Wait until there is something to run and return it; None when the batcher is closed and empty."""
        free_since = self._clock()
        while True:
            with self._lock:
                now = self._clock()
                ready = self._ready(now)
                if isinstance(ready, Bucket):
                    batch = self._form(ready, free_since)
                    if batch.jobs:
                        self._running.add(batch)
                        return batch
                    continue
                if self._closed and not self._buckets:
                    return None
                wake = _Wake()
                self._idle.append(wake)
                self._delaying = self._delaying or ready is not None
            if not wake.wait(None if ready is None else max(0.0, ready - now)):
                self._overslept(wake)

    def close(self) -> None:
        """Refuse new jobs; what waits is still handed out, then take() gives None."""
        with self._lock:
            self._closed = True
            idle, self._idle, self._delaying = self._idle, [], False
        for wake in idle:
            wake.set()

    def finished(self, batch: Batch, seconds: float | None) -> None:
        """Note that a batch is no longer running. `seconds` is the time of its run, None when it did not succeed."""
        with self._lock:
            self._running.discard(batch)
            if seconds is not None:
                self._recent.append(seconds)
                self._shortest_run = min(self._recent)

    def regroup(self, jobs: list[Job], like: Batch) -> Batch:
        """Return a batch of some members of `like`, running in its place, to be run apart from the others."""
        with self._lock:
            members = [job for job in jobs if job.place is like]
            part = Batch(members, sum(job.rows for job in members), like.free_since)
            for job in members:
                job.place = part
            self._running.add(part)
        return part

    def load(self) -> Load:
        """Tell what waits and runs now."""
        with self._lock:
            return Load(
                queued_jobs=sum(len(bucket.jobs()) for bucket in self._buckets.values()),
                queued_rows=self._queued_rows,
                queued_bytes=self._queued_bytes,
                running_jobs=sum(batch.live for batch in self._running),
            )

    def _ready(self, now: float) -> Bucket | float | None:
        """Return the bucket to run from, or when there may be one because a delay is over, or None: nothing waits."""
        buckets = self._buckets.values()
        if not buckets:
            return None
        delay = self.policy.max_delay
        if delay == 0.0 or self._closed:
            return next(iter(buckets)) if len(buckets) == 1 else min(buckets, key=lambda bucket: bucket.head().rank)
        ready, soonest = [], math.inf
        for bucket in buckets:
            due = bucket.oldest_arrival() + delay
            if due <= now or bucket.rows >= self.policy.max_rows:
                ready.append(bucket)
            soonest = min(soonest, due)
        return min(ready, key=lambda bucket: bucket.head().rank) if ready else soonest

    def _form(self, bucket: Bucket, free_since: float) -> Batch:
        """Take jobs from the head of the bucket while their rows fit. All may turn out to have ended: an empty batch."""
        most_jobs = None if self.policy.enabled else 1
        jobs: list[Job] = []
        rows = 0
        while bucket:
            job = bucket.head()
            if jobs and (rows + job.rows > self.policy.max_rows or len(jobs) == most_jobs):
                break
            self._unqueue(job, bucket)
            if job.ended:  # it is just leaving, in another thread
                job.place = None
                continue
            jobs.append(job)
            rows += job.rows
        batch = Batch(jobs, rows, free_since)
        for job in jobs:
            job.place = batch
        return batch

    def _unqueue(self, job: Job, bucket: Bucket) -> None:
        bucket.remove(job)
        self._queued_rows -= job.rows
        self._queued_bytes -= job.nbytes
        if not bucket:
            del self._buckets[job.key]

    def _refuse_for_space(self, job: Job) -> None:
        policy = self.policy
        rows, size = self._queued_rows, self._queued_bytes
        raise QueueFull(
            f"the queue is full: {rows} rows ({size} bytes) wait, at most {policy.max_queue_rows} rows ({policy.max_queue_bytes} bytes) "
            f"may, and this request has {job.rows} rows ({job.nbytes} bytes)",
            retry_after=max(0.01, self._shortest_run * (1 + rows // policy.max_rows) / self._instances),
            queued_rows=str(rows),
            queued_bytes=str(size),
        )

    def _refuse_for_time(self, job: Job) -> None:
        batches_ahead = self._queued_rows / self.policy.max_rows / self._instances
        needed = 0.0 if self._idle else self._shortest_run * (1 + batches_ahead)
        if self._clock() + needed > job.deadline:
            raise DeadlineExceeded(
                f"the deadline cannot be met: about {needed * 1e3:.1f} ms are needed"
                if needed
                else "the deadline has passed",
                needed_us=str(int(needed * 1e6)),
            )

    def _overslept(self, wake: "_Wake") -> None:
        """Take an executor that woke by itself off the idle list, or consume the wake-up that crossed it."""
        with self._lock:
            self._delaying = False
            if wake in self._idle:
                self._idle.remove(wake)
                return
        wake.wait(None)


class _Wake:
    """Wakes one sleeping thread. A bare lock: a Condition costs several times as much, and this is per batch."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let wait() return."""
        self._lock.release()

    def wait(self, seconds: float | None) -> bool:
        """Sleep until set() or for so many seconds; tell whether it was set()."""
        return self._lock.acquire(timeout=-1 if seconds is None else seconds)
