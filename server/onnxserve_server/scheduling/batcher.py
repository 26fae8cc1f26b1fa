"""The queue of one model: bounded, in buckets by row shape, and emptied into batches by the threads that run them.

Nobody watches the clock here: an executor that becomes free takes what waits ("natural batching"). Under load batches
grow because jobs arrive while the last batch runs; a lone request never waits for others. A delay can be configured.

The thread that submits jobs calls dispatch() at the end of a burst, so that a burst wakes an executor once.
Where runs are short, waking one costs more than the run itself: then dispatch() lends the executor's slot to the
caller.

The lock guards the buckets, the counts of rows and bytes, and the idle slots. It is never held while a job is ended,
because ending a job calls into the transport.
"""

import math
import threading
from dataclasses import dataclass

from onnxserve_server.core import Job
from onnxserve_server.errors import DeadlineExceeded, ModelStopped
from onnxserve_server.scheduling import refusals
from onnxserve_server.scheduling.batch import Batch, Slot
from onnxserve_server.scheduling.bucket import Bucket
from onnxserve_server.scheduling.estimate import RunTimes
from onnxserve_server.scheduling.planning import Draft, Planner
from onnxserve_server.scheduling.services import Services
from onnxserve_server.spec import BatchPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """A batcher's contents at one moment: waiting jobs, rows and bytes, and jobs and rows in running batches.

    Rows run to the end of their batch, also those of jobs that have left.
    """

    queued_jobs: int
    queued_rows: int
    queued_bytes: int
    running_jobs: int
    running_rows: int


class Batcher:
    """Queues jobs and hands them out as batches. submit() and leave() may be called from any thread.

    Args:
        policy: limits and the order of the queue.
        services: the clock, the deadline watch, which learns of each job's deadline so that expire() is called in time,
            and the backlog that all models share.
        instances: how many executors take batches, for the estimate of when a job could be done.

    Attributes:
        run_seconds: how long the batches that succeeded have run so far.
    """

    def __init__(self, policy: BatchPolicy, services: Services, instances: int = 1) -> None:
        self._backlog = services.backlog
        self._clock = services.clock
        self._watch_deadline = services.deadlines.watch
        self._lock = threading.Lock()
        self._buckets: dict[object, Bucket] = {}
        self._running: set[Batch] = set()
        self._late: list[Job] = []  # taken out of the queue after their deadline; expire() ends them
        self._idle: list[Slot] = []  # of executors asleep; the last to fall asleep is woken first: its caches are warm
        self._delaying = False  # an executor sleeps only until the delay of a waiting job is over
        self._queued_rows = 0
        self._queued_bytes = 0
        self._closed = False
        self._times = RunTimes()
        self._planner = Planner(policy, instances)
        self.run_seconds = 0.0

    @property
    def policy(self) -> BatchPolicy:
        """Limits and the order of the queue; it may be replaced by a policy that batches no longer."""
        return self._planner.policy

    @policy.setter
    def policy(self, policy: BatchPolicy) -> None:
        self._planner.policy = policy

    def submit(self, job: Job) -> None:
        """Queue a job. It may lie there until dispatch() is called.

        Raises:
            QueueFull: as many rows or bytes wait as may, for this model or for all.
            DeadlineExceeded: the job cannot be done in time, going by the last runs and the jobs ahead of it.
            ModelStopped: the batcher has been closed.
        """
        policy, weight = self._planner.policy, _weight(job)
        with self._lock:
            if (
                self._queued_rows + weight > policy.max_queue_rows
                or self._queued_bytes + job.nbytes > policy.max_queue_bytes
            ):
                raise refusals.queue_full(
                    job, policy, self._queued_rows, self._queued_bytes, self._seconds_until_empty()
                )
            if job.deadline != math.inf:
                needed = self._planner.refusal(job, self._buckets, self._queued_rows, self._running)
                if needed is not None:
                    raise refusals.too_late(job, needed)
            if self._closed:
                raise ModelStopped
            if not self._backlog.add(job.nbytes):
                raise refusals.memory_full(job, self._backlog, self._queued_rows, self._seconds_until_empty())
            bucket = self._buckets.get(job.key)
            if bucket is None:
                bucket = self._buckets[job.key] = Bucket()
            job.leave = self.leave
            job.place = bucket
            bucket.push(job)
            self._queued_rows += weight
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
        next_deadline = math.inf
        with self._lock:
            waiting = [job for bucket in self._buckets.values() for job in bucket.jobs()]
            running = [job for batch in self._running for job in batch.jobs if not job.has_ended]
            expired, self._late = self._late, []
        for job in waiting + running:
            if job.deadline <= now:
                expired.append(job)
            elif job.deadline < next_deadline:
                next_deadline = job.deadline
        for job in expired:
            job.withdraw(DeadlineExceeded(refusals.PASSED if job.deadline <= now else refusals.TOO_LATE))
        return next_deadline

    def dispatch(self, max_inline: float = 0.0) -> Batch | None:
        """Run what waits: wake a sleeping executor, or lend its slot to the caller.

        Args:
            max_inline: the caller would rather run batches itself than wake an executor, if going by the last runs
                that takes no longer than so many seconds.

        Returns:
            A batch for the caller to run, in a borrowed slot, to be followed by next(); None: nothing is left to do.
        """
        batch = None
        with self._lock:
            if not self._idle or not self._buckets:
                return None
            now = self._clock()
            ready = self._ready(now)
            if isinstance(ready, Bucket) and self._is_short(ready, max_inline):
                batch = self._form_or_rest(ready, self._pop_idle(), now)
            sleeper = self._sleeper_to_wake(now)
        if sleeper is not None:
            sleeper.wake()
        return batch

    def next(self, batch: Batch, max_inline: float) -> Batch | None:
        """Return the next batch to run in the slot of `batch`, which has run; None: the slot is given back.

        The executor is woken if there is more to do and it takes longer than `max_inline`, in seconds.
        """
        slot = batch.slot
        with self._lock:
            slot.free_since = now = self._clock()
            ready = self._ready(now)
            if ready is None and not self._closed:
                self._idle.append(slot)
                return None
            if isinstance(ready, Bucket) and self._is_short(ready, max_inline):
                return self._form_or_rest(ready, slot, now)
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
                    if not (batch := self._form(ready, slot, now)).jobs:
                        continue
                    sleeper = self._sleeper_to_wake(now)
                    break
                if self._closed and not self._buckets:
                    return None
                self._idle.append(slot)
                self._delaying = self._delaying or ready is not None
            if not slot.sleep(None if ready is None else max(0.0, ready - now)):
                self._overslept(slot)
        if sleeper is not None:
            sleeper.wake()
        return batch

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
            self._forget(batch)
            if seconds is not None:
                self.run_seconds += seconds
                self._times.note(batch.rows or 1, seconds)  # without rows it is run with one of zeros
                self._planner.forecast.note(batch.key, batch.rows, seconds, self._clock())

    def stopped(self, batch: Batch, seconds: float) -> None:
        """Note that a batch is no longer running: its run was stopped after so long because everybody had left."""
        with self._lock:
            self._forget(batch)
            self._planner.forecast.note_stopped(batch.key, batch.rows, seconds, self._clock())

    def divide(self, batch: Batch) -> list[Batch]:
        """Put several batches in the place of one that failed: two, each of half the members that have not left.

        Once batching has stopped, each member gets one.
        """
        parts = []
        with self._lock:  # all at once: expire() must see those, too, whose half runs second
            self._running.discard(batch)
            members = [job for job in batch.jobs if job.place is batch]
            size = (len(members) + 1) // 2 if self.policy.enabled else 1
            for start in range(0, len(members), size or 1):
                some = members[start : start + size]
                part = Batch(some, sum(job.rows for job in some), batch.slot, batch.formed)
                for job in some:
                    job.place = part
                self._running.add(part)
                parts.append(part)
        return parts

    @property
    def has_waiting(self) -> bool:
        """Whether jobs wait."""
        return bool(self._buckets)

    @property
    def closed(self) -> bool:
        """Whether new jobs are refused."""
        return self._closed

    def load(self) -> Load:
        """Return what waits and runs now."""
        with self._lock:
            return Load(
                queued_jobs=sum(len(bucket.jobs()) for bucket in self._buckets.values()),
                queued_rows=self._queued_rows,
                queued_bytes=self._queued_bytes,
                running_jobs=sum(batch.live for batch in self._running),
                running_rows=sum(max(batch.rows, 1) for batch in self._running),
            )

    def _ready(self, now: float) -> Bucket | float | None:
        """Return the bucket to run from, or when there may be one because a delay is over, or None: nothing waits."""
        buckets = self._buckets.values()
        if not buckets:
            return None
        policy = self._planner.policy
        delay = policy.max_delay
        if delay == 0.0 or self._closed:
            return next(iter(buckets)) if len(buckets) == 1 else min(buckets, key=lambda bucket: bucket.head().rank)
        ready, soonest = [], math.inf
        for bucket in buckets:
            due = bucket.oldest_arrival() + delay
            if due <= now or bucket.rows >= policy.max_rows:
                ready.append(bucket)
            soonest = min(soonest, due)
        return min(ready, key=lambda bucket: bucket.head().rank) if ready else soonest

    def _is_short(self, bucket: Bucket, longest: float) -> bool:
        rows = min(bucket.rows, self._planner.policy.max_rows)
        return longest > 0 and not self._closed and self._times.at_most(rows) <= longest

    def _sleeper_to_wake(self, now: float) -> Slot | None:
        """Return the slot of a sleeping executor that there is something for, to run or to wait for, if any."""
        if not self._idle:
            return None
        ready = self._ready(now)
        if ready is None or (self._delaying and not isinstance(ready, Bucket)):
            return None
        return self._pop_idle()

    def _pop_idle(self) -> Slot:
        self._delaying = False  # it may have been this one that slept by a delay
        return self._idle.pop()

    def _form(self, bucket: Bucket, slot: Slot, now: float) -> Batch:
        """Take jobs from the head of the bucket that can finish in time together; there may be none."""
        draft = Draft(self._planner, bucket, now)
        while bucket:
            job = bucket.head()
            if job.has_ended:  # it is just leaving, in another thread
                self._unqueue(job, bucket)
                job.place = None
            elif job.deadline <= draft.enough and draft.is_late(job):
                self._unqueue(job, bucket)
                job.place = None
                self._late.append(job)
            elif not draft.jobs or draft.has_room(job):
                self._unqueue(job, bucket)
                draft.add(job)
            else:
                break
        batch = Batch(draft.jobs, draft.rows, slot, now)
        for job in batch.jobs:
            job.place = batch
        if batch.jobs:
            self._running.add(batch)
            self._planner.forecast.begin(batch.key, batch.rows, now)
        if self._late:
            self._watch_deadline(now)  # so that expire() ends them, on a thread of its own
        return batch

    def _form_or_rest(self, bucket: Bucket, slot: Slot, now: float) -> Batch | None:
        """Form a batch in a borrowed slot; where all its jobs have just ended, the slot rests."""
        batch = self._form(bucket, slot, now)
        if batch.jobs:
            return batch
        if self._buckets:
            slot.wake()
        else:
            self._idle.append(slot)
        return None

    def _forget(self, batch: Batch) -> None:
        self._running.discard(batch)
        for job in batch.jobs:
            job.place = None  # else job and batch would hold each other, and their arrays, until a collection

    def _unqueue(self, job: Job, bucket: Bucket) -> None:
        bucket.remove(job)
        self._queued_rows -= _weight(job)
        self._queued_bytes -= job.nbytes
        self._backlog.remove(job.nbytes)
        if not bucket:
            del self._buckets[job.key]

    def _seconds_until_empty(self) -> float:
        return max(0.01, self._planner.seconds_until_empty(self._queued_rows))

    def _overslept(self, slot: Slot) -> None:
        """Take the slot of an executor that woke by itself off the idle list, or wait until it is given back."""
        with self._lock:
            self._delaying = False
            if slot in self._idle:
                self._idle.remove(slot)
                return
        slot.sleep(None)


def _weight(job: Job) -> int:
    """Return what a job counts in the queue: its rows, and one where it has none."""
    return job.rows or 1
