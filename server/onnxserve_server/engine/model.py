"""A model that serves: its spec, its queue and its executors."""

import math

from onnxserve_server.core import Clock, Job
from onnxserve_server.engine.live_sequences import SequenceBooks
from onnxserve_server.observing import Observer
from onnxserve_server.scheduling.backlog import Backlog
from onnxserve_server.scheduling.batcher import Batcher, Load
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.scheduling.executor import Executor, Settle, run_waiting
from onnxserve_server.scheduling.running import BatchRunner, Model
from onnxserve_server.spec import ModelSpec


class ServedModel:
    """One version of a model, taking jobs from start() to stop().

    Args:
        spec: what the model is.
        session: runs it.
        clock: tells the time in seconds.
        deadlines: watches the deadlines of its jobs.
        longest_inline: runs of up to so many seconds are left to the thread that brings the jobs.
        observer: is told of each run.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: Model,
        clock: Clock,
        deadlines: DeadlineWatch,
        longest_inline: float = 0.0,
        *,
        observer: Observer | None = None,
    ) -> None:
        self.spec = spec
        self._deadlines = deadlines
        # A graph that loops over its data may suddenly take long, and would hold up the thread that brings the jobs.
        self._longest_inline = longest_inline if spec.steady else 0.0
        self._batcher = Batcher(spec.batching, clock, deadlines.watch, spec.instances)
        self._runner = BatchRunner(spec, session, self._batcher, clock, observer)
        label = f"{spec.name}/{spec.version}"
        self._executors = [Executor(self._runner, self._batcher, label) for _ in range(spec.instances)]
        self.sequences = SequenceBooks(spec.sequences, clock, deadlines)
        self._unflushed = False

    def settle_by(self, settle: Settle) -> None:
        """Scatter results by `settle`; call it before start()."""
        for executor in self._executors:
            executor.settle = settle

    def share(self, backlog: Backlog) -> None:
        """Count what waits in a backlog; call it before start()."""
        self._batcher.backlog = backlog

    def start(self) -> None:
        """Start the executors."""
        self._deadlines.subscribe(self._batcher.expire)
        self._deadlines.subscribe(self.sequences.expire)
        for executor in self._executors:
            executor.start()

    def stop(self) -> None:
        """Refuse new jobs, finish those that wait, end the executors."""
        self._batcher.close()
        for executor in self._executors:
            executor.join()
        self._deadlines.unsubscribe(self._batcher.expire)
        self._deadlines.unsubscribe(self.sequences.expire)
        self._batcher.expire(math.inf)  # jobs that came out of the queue too late to be run

    def submit(self, job: Job) -> bool:
        """Queue a job; raises as Batcher.submit() does. Return True when flush() must be called and nobody will yet."""
        self._batcher.submit(job)
        if self._unflushed:
            return False
        self._unflushed = True  # stored only by who then sees to the flush: else it could stay set for ever
        return True

    def flush(self) -> None:
        """Have what waits run: all that came together has been submitted."""
        self._unflushed = False  # before looking: a job that comes after this asks for a flush of its own
        run_waiting(self._runner, self._batcher, self._longest_inline)

    @property
    def run_seconds(self) -> float:
        """How long its executors have run so far, all together."""
        return self._batcher.run_seconds

    def load(self) -> Load:
        """Tell what waits and runs now."""
        return self._batcher.load()
