"""Open-loop load on a batcher with one executor, by a hand-moved clock: what is done in time, and what for nothing."""

import math
from dataclasses import dataclass, field

from onnxserve_server.core import Receipt, Result
from onnxserve_server.errors import DeadlineExceeded, QueueFull
from onnxserve_server.scheduling.batch import Batch
from support.batching import idle_slot

_RESULT = Result("m", "1", [], Receipt(0, 0, 0, 1, 1, ""))


@dataclass
class Outcome:
    """What became of the jobs.

    `good` were answered in time, `refused` when they came, `late` afterwards. Runs took `busy` seconds, of which
    `wasted` for jobs that were not answered.
    """

    good: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    late: list = field(default_factory=list)
    runs: list = field(default_factory=list)
    busy: float = 0.0
    wasted: float = 0.0


class Offering:
    """Submits jobs at their arrivals; a run takes `seconds_of(batch)`."""

    def __init__(self, clock, batcher, jobs, seconds_of):
        self._clock = clock
        self._batcher = batcher
        self._seconds_of = seconds_of
        self._coming = sorted(jobs, key=lambda job: job.arrived, reverse=True)
        self._slot = idle_slot(batcher)
        self.outcome = Outcome()

    def all(self):
        """Offer everything, run it, and return the Outcome."""
        while self._coming:
            self._pass_until(self._coming[-1].arrived)
            batch = self._batcher.dispatch(math.inf)
            while batch is not None or self._slot.sleep(0):
                batch = self._run(batch) if batch else self._batcher.next(Batch([], 0, self._slot), math.inf)
        self._batcher.expire(self._clock.now)
        assert self._batcher.load().queued_jobs == 0
        return self.outcome

    def _run(self, batch):
        began, seconds = self._clock.now, self._seconds_of(batch)
        self._pass_until(began + seconds)
        in_time = [job for job in batch.jobs if job.end(_RESULT)]
        self._batcher.finished(batch, seconds)
        self.outcome.good += in_time
        self.outcome.late += [job for job in batch.jobs if job not in in_time]
        self.outcome.runs.append(len(batch.jobs))
        self.outcome.busy += seconds
        self.outcome.wasted += seconds * (1 - len(in_time) / len(batch.jobs))
        return self._batcher.next(batch, math.inf)

    def _pass_until(self, now):
        while self._coming and self._coming[-1].arrived <= now:
            job = self._coming.pop()
            self._clock.now = job.arrived
            self._batcher.expire(job.arrived)
            try:
                self._batcher.submit(job)
            except (DeadlineExceeded, QueueFull):
                self.outcome.refused.append(job)
        self._clock.now = now
        self._batcher.expire(now)


def offer(clock, batcher, jobs, seconds_of):
    """Offer jobs to a batcher and return the Outcome; see Offering."""
    return Offering(clock, batcher, jobs, seconds_of).all()
