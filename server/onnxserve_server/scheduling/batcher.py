"""The queue of one model: bounded, in buckets by row shape, and emptied into batches by whoever executes them.

Nobody watches the clock here: an executor that becomes free takes what waits ("natural batching"). Under load batches
grow because jobs arrive while the last batch runs; a lone request never waits for others. A delay can be configured.

Whoever submits jobs calls rouse() when there are no more for the moment, so that a burst wakes an executor once. Where
runs are short, waking one costs more than the run itself: then rouse() lends the executor's slot to the caller.

The lock guards the books (buckets, rows, bytes, idle slots). It is never held while a job is ended, because ending a
job calls into the transport.
"""

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from onnxserve_server.core import Batch, BatchPolicy, Clock, Job, Slot
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
            Slot
        ] = []  # executors asleep; the last to fall asleep is the first to wake: its caches are warm
        self._delaying = False  # an executor sleeps only until the delay of a waiting job is over
        self._queued_rows = 0
        self._queued_bytes = 0
        self._closed = False
        self._recent: deque[float] = deque(maxlen=_RECENT_RUNS)
        self._shortest_run = 0.0
        self._longest_run = math.inf

    def submit(self, job: Job) -> None:
        """Queue a job. It may lie there until rouse() is called.

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

    def rouse(self, longest_inline: float = 0.0) -> Batch | None:
        """See to it that what waits is run: wake a sleeping executor, or lend its slot to the caller.

        Args:
            longest_inline: the caller would rather run batches itself than wake an executor, if none of the last runs
                took longer than this, in seconds.

        Returns:
            A batch for the caller to run, in a borrowed slot, to be followed by next(); None: nothing is left to do.
        """
        with self._lock:
            if not self._idle or not self._buckets:
                return None
            ready = self._ready(self._clock())
            if isinstance(ready, Bucket):
                if self._longest_run <= longest_inline and not self._closed:
                    slot = self._idle.pop()
                    return self._form_or_rest(ready, slot)
            elif self._delaying:
                return None
            slot = self._idle.pop()
            self._delaying = False
        slot.wake()
        return None

    def next(self, batch: Batch, *, last: bool) -> Batch | None:
        """Return the next batch to run in the slot of `batch`, which has run; None: the slot is given back.

        With `last`, the slot is given back in any case, and its executor woken if there is more to do.
        """
        slot = batch.slot
        with self._lock:
            slot.free_since = now = self._clock()
            ready = self._ready(now)
            if ready is None and not self._closed:
                self._idle.append(slot)
                return None
            if isinstance(ready, Bucket) and not last:
                return self._form_or_rest(ready, slot)
        slot.wake()
        return None

    def take(self, slot: Slot) -> Batch | None:
        """Wait in the executor's own slot until there is a batch to run; None when closed and empty."""
        slot.free_since = self._clock()
        while True:
            with self._lock:
                now = self._clock()
                ready = self._ready(now)
                if isinstance(ready, Bucket):
                    if (batch := self._form(ready, slot)).jobs:
                        return batch
                    continue
                if self._closed and not self._buckets:
                    return None
                self._idle.append(slot)
                self._delaying = self._delaying or ready is not None
            if not slot.sleep(None if ready is None else max(0.0, ready - now)):
                self._overslept(slot)

    def close(self) -> None:
        """Refuse new jobs; what waits is still handed out, then take() gives None."""
        with self._lock:
            self._closed = True
            idle, self._idle, self._delaying = self._idle, [], False
        for slot in idle:
            slot.wake()

    def finished(self, batch: Batch, seconds: float | None) -> None:
        """Note that a batch is no longer running. `seconds` is the time of its run, None when it did not succeed."""
        with self._lock:
            self._running.discard(batch)
            if seconds is not None:
                self._recent.append(seconds)
                self._shortest_run = min(self._recent)
                self._longest_run = max(self._recent)

    def regroup(self, jobs: list[Job], like: Batch) -> Batch:
        """Return a batch of some members of `like`, running in its place, to be run apart from the others."""
        with self._lock:
            members = [job for job in jobs if job.place is like]
            part = Batch(members, sum(job.rows for job in members), like.slot)
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

    def _form(self, bucket: Bucket, slot: Slot) -> Batch:
        """Take jobs from the head of the bucket while their rows fit; none may be left that has not ended."""
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
        batch = Batch(jobs, rows, slot)
        for job in jobs:
            job.place = batch
        if jobs:
            self._running.add(batch)
        return batch

    def _form_or_rest(self, bucket: Bucket, slot: Slot) -> Batch | None:
        """Form a batch in a borrowed slot; where all its jobs have just ended, the slot rests."""
        batch = self._form(bucket, slot)
        if batch.jobs:
            return batch
        if self._buckets:
            slot.wake()
        else:
            self._idle.append(slot)
        return None

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
            f"the queue is full: {rows} rows ({size} bytes) wait, at most {policy.max_queue_rows} rows "
            f"({policy.max_queue_bytes} bytes) may, and this request has {job.rows} rows ({job.nbytes} bytes)",
            retry_after=max(0.01, self._shortest_run * (1 + rows // policy.max_rows) / self._instances),
            queued_rows=str(rows),
            queued_bytes=str(size),
        )

    def _refuse_for_time(self, job: Job) -> None:
        batches_ahead = self._queued_rows / self.policy.max_rows / self._instances
        needed = 0.0 if self._idle else self._shortest_run * (1 + batches_ahead)
        if job.arrived + needed > job.deadline:
            raise DeadlineExceeded(
                f"the deadline cannot be met: about {needed * 1e3:.1f} ms are needed"
                if needed
                else "the deadline has passed",
                needed_us=str(int(needed * 1e6)),
            )

    def _overslept(self, slot: Slot) -> None:
        """Take the slot of an executor that woke by itself off the idle list, or wait for whoever has it."""
        with self._lock:
            self._delaying = False
            if slot in self._idle:
                self._idle.remove(slot)
                return
        slot.sleep(None)
