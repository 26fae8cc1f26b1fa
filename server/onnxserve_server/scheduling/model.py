"""A model that serves: its spec, its queue and its executors."""

from onnxserve_server.core import Clock, ModelSpec
from onnxserve_server.scheduling.batcher import Batcher, Load
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.scheduling.executor import Executor, Runner


class ServedModel:
    """One version of a model, taking jobs from start() to stop()."""

    def __init__(self, spec: ModelSpec, session: Runner, clock: Clock, deadlines: DeadlineWatch) -> None:
        self.spec = spec
        self._deadlines = deadlines
        self._batcher = Batcher(spec.batching, clock, deadlines.watch, spec.instances)
        self._executors = [Executor(spec, session, self._batcher, clock) for _ in range(spec.instances)]
        self.submit = self._batcher.submit

    def start(self) -> None:
        """Start the executors."""
        self._deadlines.subscribe(self._batcher.expire)
        for executor in self._executors:
            executor.start()

    def stop(self) -> None:
        """Refuse new jobs, finish those that wait, end the executors."""
        self._batcher.close()
        for executor in self._executors:
            executor.join()
        self._deadlines.unsubscribe(self._batcher.expire)

    def load(self) -> Load:
        """Tell what waits and runs now."""
        return self._batcher.load()
