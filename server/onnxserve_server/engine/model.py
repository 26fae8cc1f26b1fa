"""One version of an ONNX model that serves: its admission, its queue, its executors and its live sequences."""

from collections.abc import Sequence

from onnxserve.tensor import Array
from onnxserve_server.core import Done, Job, Request
from onnxserve_server.engine.admission import Admission, ServerInputs
from onnxserve_server.engine.live_sequences import LiveSequences
from onnxserve_server.engine.sequence_state import States
from onnxserve_server.engine.splitting import Split
from onnxserve_server.errors import ServeError
from onnxserve_server.scheduling.batcher import Batcher, Load
from onnxserve_server.scheduling.executor import Executor, run_waiting
from onnxserve_server.scheduling.response_size import ResponseSize
from onnxserve_server.scheduling.running import BatchRunner, Model
from onnxserve_server.scheduling.services import Services
from onnxserve_server.spec import ModelSpec, TensorSpec


class ServedModel:
    """Implements Servable.

    Args:
        spec: what the model is.
        session: runs it.
        services: what all models share.
        max_inline: runs of up to so many seconds are left to the thread that brings the jobs.

    Attributes:
        states: makes and checks the states of its sequences.
        sequences: those that are live.
    """

    def __init__(self, spec: ModelSpec, session: Model, services: Services, max_inline: float = 0.0) -> None:
        self.states = States(spec)
        self.sequences = LiveSequences(spec.sequences, services.clock, services.deadlines)
        self._services = services
        # A graph that loops over its data may suddenly take long, and would hold up the thread that brings the jobs.
        self._max_inline = max_inline if spec.fixed_cost else 0.0
        self._response_size = ResponseSize(spec, services.max_response_bytes)
        self._admission = Admission(spec, self._response_size)
        self._batcher = Batcher(spec.batching, services, spec.instances)
        self._runner = BatchRunner(
            spec, session, self._batcher, services.clock, services.observer, response_size=self._response_size
        )
        label = f"{spec.name}/{spec.version}"
        run_then_flush = services.flusher.run_then_flush
        self._runner.on_stop = self._admit_by
        self._executors = [Executor(self._runner, self._batcher, run_then_flush, label) for _ in range(spec.instances)]
        self._is_unflushed = False

    @property
    def spec(self) -> ModelSpec:
        """See Servable; another one once batching has stopped."""
        return self._runner.spec

    def start(self) -> None:
        """Start the executors."""
        self._services.deadlines.subscribe(self._batcher.expire)
        self._services.deadlines.subscribe(self.sequences.expire)
        for executor in self._executors:
            executor.start()

    def stop(self) -> None:
        """Refuse new jobs, finish those that wait, end the sequences and the executors."""
        self._batcher.close()
        for executor in self._executors:
            executor.join()
        self.sequences.stop()
        self._services.deadlines.unsubscribe(self._batcher.expire)
        self._services.deadlines.unsubscribe(self.sequences.expire)
        self._batcher.expire(self._services.clock())  # ends the jobs that came out of the queue too late to be run

    def submit(self, request: Request, arrived: float, done: Done, server_inputs: ServerInputs | None = None) -> Job:
        """Admit and queue a request, with what the server adds to it; raises as Engine.submit() does."""
        job = self._admission.admit(request, arrived, done, server_inputs)
        if request.trace is not None and server_inputs is None:  # not at each of ten thousand steps
            request.trace.mark("queue")
        policy = self.spec.batching
        if job.rows <= policy.max_rows or not policy.enabled:
            self.queue(job)
        else:
            self._queue_parts(job, policy.max_rows)
        return job

    def queue(self, job: Job) -> None:
        """Queue an admitted job of at most max_rows rows; raises as Batcher.submit() does."""
        self._batcher.submit(job)
        if not self._is_unflushed:
            self._is_unflushed = True  # stored only by the thread that then adds it: else it could stay set for ever
            self._services.flusher.add(self)

    def flush(self) -> None:
        """Dispatch what waits, once all requests of a burst have been submitted."""
        self._is_unflushed = False  # before looking: a job that comes after this asks for a flush of its own
        run_waiting(self._runner, self._batcher, self._max_inline)

    @property
    def run_seconds(self) -> float:
        """How long its executors have run so far, all together."""
        return self._batcher.run_seconds

    def load(self) -> Load:
        """Return what waits and runs now."""
        return self._batcher.load()

    @property
    def joins(self) -> bool:
        """See splitting.Runs: whether a large job may still run in parts."""
        return self.spec.batching.enabled

    def check_answer(self, outputs: Sequence[tuple[TensorSpec, Array]]) -> None:
        """See splitting.Runs."""
        self._response_size.check_after(outputs)

    def run_whole(self, job: Job, fault: str) -> None:
        """See splitting.Runs: run a job in one run, of however many rows, whose parts' answers would be wrong."""
        if fault:
            self._runner.stop_batching(f"the outputs of the runs of one request cannot be joined: {fault}")
        try:
            self.queue(job)
        except ServeError as error:
            job.end(error)

    def _admit_by(self, spec: ModelSpec) -> None:
        """Admit requests by a new spec."""
        self._admission = Admission(spec, ResponseSize(spec, self._services.max_response_bytes))

    def _queue_parts(self, job: Job, max_rows: int) -> None:
        """Queue the parts of a large job, all or none."""
        split = Split(job, max_rows, self.spec.inputs, self)
        try:
            for part in split.parts:
                self.queue(part)
        except ServeError:
            refused = job.discard()  # else a part that ran meanwhile has ended the job, and its caller knows
            split.withdraw_parts()
            if refused:
                raise
