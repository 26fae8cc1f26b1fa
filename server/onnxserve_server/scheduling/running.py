"""Hops 5 and 6: run a batch on a session, give every job its own rows."""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from onnxserve.tensor import Array
from onnxserve_server.core import Clock, Job, Receipt, Result
from onnxserve_server.errors import InvalidValues, ModelRunFailed, OutOfMemory, ServeError, Violation
from onnxserve_server.observing import Observer, Run, SpotCheck
from onnxserve_server.runtime.arena import may_fit
from onnxserve_server.runtime.failures import MemoryRefused, RunFailed, ValuesRefused
from onnxserve_server.runtime.session import RunHandle
from onnxserve_server.scheduling.batch import Batch
from onnxserve_server.scheduling.batcher import Batcher
from onnxserve_server.scheduling.response_size import ResponseSize
from onnxserve_server.scheduling.spot_checks import SpotChecks
from onnxserve_server.spec import ModelSpec, TensorSpec, without_batching

logger = logging.getLogger(__name__)

_MIN_CHECKED = 2  # rows of a batch that is spot-checked
_MEMORY_RETRY = 0.1  # seconds after which others may have given back the memory that a run lacked
_QUOTES = "Status Message:"  # what follows it in an error of a node is the kernel's own text


class Model(Protocol):
    """A session, as far as running needs it."""

    def run(self, feeds: dict[str, Array], outputs: Sequence[str], handle: RunHandle | None = None) -> list[Array]:
        """Run the model once; raises RunFailed."""
        ...


class BatchingStopped(RunFailed):
    """The model runs one request at a time from now on, and this run was not one request's own."""


class BatchRunner:
    """Runs batches of one model. Several threads may run batches at a time.

    Attributes:
        spec: the model's; another one once batching has stopped.
        on_stop: called with that one.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: Model,
        batcher: Batcher,
        clock: Clock,
        observer: Observer | None = None,
        *,
        response_size: ResponseSize | None = None,
    ) -> None:
        self.spec = spec
        self.on_stop: Callable[[ModelSpec], None] = _nothing
        self._stopping = threading.Lock()
        self._session = session
        self._batcher = batcher
        self._clock = clock
        self._observer = observer
        self._response_size = response_size or ResponseSize(spec, math.inf)
        self._rows_first = spec.rows_first
        self._checks: SpotChecks | None = None
        if spec.batching.enabled and spec.batching.spot_checks:
            self._checks = SpotChecks(
                spec, session.run, clock, on_check=self._note_check, on_dependence=self.stop_batching
            )

    def run(self, batch: Batch) -> "FinishedRun | None":
        """Run a batch. When it fails, halve it until the jobs at fault are alone: the others get their answer.

        When its outputs have not a row for each of its rows, nobody knows whose they are: its jobs run one by one.
        """
        spec = self.spec
        wanted = wanted_outputs(batch.jobs, spec)
        handle = RunHandle()
        batch.arm(handle.stop)
        started = self._clock()
        try:
            if batch.abandoned:
                raise RunFailed("every caller left before it began")
            arrays = self._outputs(batch, spec, [output.name for output in wanted], handle)
            seconds = self._clock() - started
            if spec.batching.enabled:
                fault = _fault_of_rows(wanted, arrays, batch.rows or 1)
                if fault or not self.spec.batching.enabled:
                    self._leave_batching(batch, fault)
        except RunFailed as error:
            is_over = batch.abandoned or (len(batch.jobs) == 1 and not isinstance(error, BatchingStopped))
            seconds = self._clock() - started
            if self._observer is not None:
                self._observer.on_run(run_of(spec, batch, batch.rows, started, seconds, is_over=is_over))
            if batch.abandoned:
                self._batcher.stopped(batch, seconds)
            elif is_over:
                self._fail(batch, error)
            else:
                self._run_apart(batch)
            return None
        except Exception as error:  # a defect of ours must not end the thread that all callers of the model wait for
            logger.exception("a batch failed", extra=self._named())
            self._fail(batch, RunFailed(str(error)))
            return None
        self._batcher.finished(batch, seconds)
        columns = {output.name: array for output, array in zip(wanted, arrays, strict=True)}
        return FinishedRun(
            batch,
            columns,
            started,
            seconds,
            spec,
            observer=self._observer,
            rows_first=self._rows_first,
            response_size=self._response_size,
        )

    def spot_check(self, run: "FinishedRun") -> None:
        """Spot-check a batch that was answered, if it is its turn. Call it in the batch's slot, at the end of it."""
        checks, batcher = self._checks, self._batcher
        if checks is None or (run.batch.rows < _MIN_CHECKED and checks.due is None):
            return
        if not batcher.closed:
            checks.after(run.batch, run.columns, batcher.run_seconds, waiting=batcher.has_waiting)

    def stop_batching(self, reason: str) -> bool:
        """Run one request at a time from now on, for `reason`, a sentence; return whether batching went on until now.

        Batches that are running are run again, one request at a time.
        """
        with self._stopping:
            if not self.spec.batching.enabled:
                return False
            spec = without_batching(self.spec, reason)
            self._batcher.policy = spec.batching
            self.spec = spec
            self._checks = None
            self.on_stop(spec)
        logger.error(
            "the model runs one request at a time from now on, because %s; export it so that its rows do not "
            "depend on each other, or set `batching.enabled: false` in its model.yaml",
            reason,
            extra=self._named(),
        )
        return True

    def _outputs(self, batch: Batch, spec: ModelSpec, names: list[str], handle: RunHandle) -> list[Array]:
        """Run a batch, one without rows on a row of ones if the model refuses one of zeros, as divisors."""
        try:
            return self._session.run(gather(batch, spec), names, handle)
        except ValuesRefused:
            if not _is_made_up(batch, spec):
                raise
        return self._session.run(gather(batch, spec, of=1), names, handle)

    def _note_check(self, check: SpotCheck) -> None:
        if self._observer is not None:
            self._observer.on_spot_check(check)

    def _leave_batching(self, batch: Batch, fault: str) -> None:
        """Stop batching if it goes on, for the `fault` of the rows of a batch's outputs.

        Raises:
            BatchingStopped: this batch must run again, one request at a time.
        """
        if fault:
            self.stop_batching(fault)
        is_own = len(batch.jobs) == 1 and batch.rows > 0  # without rows it was run with one of zeros
        if not is_own:
            raise BatchingStopped("its requests run one at a time")

    def _run_apart(self, batch: Batch) -> None:
        for part in self._batcher.divide(batch):
            if (run := self.run(part)) is not None:
                run.scatter()

    def _fail(self, batch: Batch, error: RunFailed) -> None:
        self._batcher.finished(batch, None)
        if not isinstance(error, ValuesRefused):
            # Without what ONNX Runtime quotes of a tensor, which belongs to the callers; they get the whole message.
            message = str(error).partition(_QUOTES)[0].strip()
            logger.warning("the model failed in its run: %s", message, extra=self._named())
        for job in batch.jobs:
            job.end(self._error_of(error))

    def _error_of(self, error: RunFailed) -> ServeError:
        if isinstance(error, ValuesRefused):
            fault = Violation("inputs", f"the model cannot compute with these values or sizes: {error}")
            return InvalidValues([fault], **self._named())
        if isinstance(error, MemoryRefused):
            is_for_now = error.asked is not None and may_fit(error.asked)
            return OutOfMemory(
                f"the run needs more memory than there is{' now' if is_for_now else ''}; send less at a time: {error}",
                retry_after=_MEMORY_RETRY if is_for_now else None,
                **self._named(),
            )
        return ModelRunFailed(f"the model failed in its run: {error}", **self._named())

    def _named(self) -> dict[str, str]:
        return {"model": self.spec.name, "version": self.spec.version}


class FinishedRun:
    """A batch whose run is over. `columns` are its outputs by name, `rows_first` is the spec's, worked out once."""

    __slots__ = ("_observer", "_response_size", "_rows_first", "_spec", "_started", "batch", "columns", "seconds")

    def __init__(
        self,
        batch: Batch,
        columns: dict[str, Array],
        started: float,
        seconds: float,
        spec: ModelSpec,
        *,
        observer: Observer | None,
        rows_first: bool,
        response_size: ResponseSize,
    ) -> None:
        self._response_size = response_size
        self.batch = batch
        self.columns = columns
        self._started = started
        self.seconds = seconds
        self._spec = spec
        self._observer = observer
        self._rows_first = rows_first

    def scatter(self) -> None:
        """Hop 6: end every job with its own rows of the outputs that it wants."""
        batch, columns, rows_first = self.batch, self.columns, self._rows_first
        alone = len(batch.jobs) == 1
        ran_on_one = self._spec.batching.enabled or self._spec.needs_rows
        all_fit = self._response_size.fits(columns.values())
        first = wasted = 0
        for job in batch.jobs:
            last = first + job.rows
            if alone and (job.rows > 0 or not ran_on_one):
                outputs = [(output, columns[output.name]) for output in job.outputs]
            elif rows_first:
                outputs = [(output, columns[output.name][first:last]) for output in job.outputs]
            else:
                outputs = [(output, output.cut(columns[output.name], first, last)) for output in job.outputs]
            fault = None if all_fit else self._response_size.fault(outputs[: job.answered])
            if not job.end(fault or Result(self._spec.name, self._spec.version, outputs, self._receipt(job))):
                wasted += job.rows
            first = last
        if self._observer is not None:
            self._observer.on_run(run_of(self._spec, batch, wasted, self._started, self.seconds))

    def _receipt(self, job: Job) -> Receipt:
        batch = self.batch
        free = max(job.arrived, batch.free_since)
        return Receipt(  # by position: this is made for every request
            int((free - job.arrived) * 1e6),
            int((self._started - free) * 1e6),
            int(self.seconds * 1e6),
            batch.rows,
            len(batch.jobs),
            self._spec.providers[0],
        )


def run_of(
    spec: ModelSpec, batch: Batch, wasted_rows: int, started: float, seconds: float, *, is_over: bool = True
) -> Run:
    """Return a run as observers see it. `is_over`: its jobs end with it, and are not run again."""
    jobs, ended = batch.jobs, started + seconds
    traces = [job.trace for job in jobs if job.trace is not None]
    row_seconds = sum([job.rows * (ended - job.arrived) for job in jobs]) if is_over else 0.0
    return Run(spec, batch.rows, len(jobs), wasted_rows, row_seconds, batch.free_since, started, seconds, traces)


def wanted_outputs(jobs: list[Job], spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """Return the outputs that any of the jobs wants: ONNX Runtime skips what only the others need."""
    for job in jobs:
        if job.outputs is spec.outputs:
            return spec.outputs
    names = {output.name for job in jobs for output in job.outputs}
    return tuple(output for output in spec.outputs if output.name in names)


def gather(batch: Batch, spec: ModelSpec, of: int = 0) -> dict[str, Array]:
    """Put the rows of all jobs together, input by input, in one copy; a lone job's arrays are used as they are.

    Of shared inputs, which are equal, the first job's is taken. A batch without any row gets one `of` zeros or ones:
    many kernels cannot run on none, and the shape of the answer is needed.
    """
    jobs = batch.jobs
    if _is_made_up(batch, spec):
        pairs = zip(spec.inputs, jobs[0].inputs, strict=True)
        return {tensor.name: _one_row(tensor, array, of) for tensor, array in pairs}
    if len(jobs) == 1:
        return {tensor.name: array for tensor, array in zip(spec.inputs, jobs[0].inputs, strict=True)}
    return {
        tensor.name: jobs[0].inputs[i]
        if tensor.batch_axis is None
        else np.concatenate([job.inputs[i] for job in jobs], tensor.batch_axis)
        for i, tensor in enumerate(spec.inputs)
    }


def _is_made_up(batch: Batch, spec: ModelSpec) -> bool:
    """Whether a batch without any row runs on one that nobody sent."""
    return not batch.rows and (spec.batching.enabled or spec.needs_rows)


def _one_row(tensor: TensorSpec, empty: Array, of: int) -> Array:
    """Return zeros or ones, as texts "" or "1", for an input without rows; a shared one as it is."""
    axis = tensor.batch_axis
    if axis is None:
        return empty
    shape = (*empty.shape[:axis], 1, *empty.shape[axis + 1 :])
    return np.full(shape, "1" if of else "", object) if empty.dtype == object else np.full(shape, of, empty.dtype)


def _fault_of_rows(wanted: tuple[TensorSpec, ...], arrays: list[Array], rows: int) -> str:
    """Return which output has not one row for each of `rows` rows that were run, as a sentence; "" for none."""
    for output, array in zip(wanted, arrays, strict=True):
        axis = output.batch_axis
        if axis is not None and array.shape[axis : axis + 1] != (rows,):
            count = "1 row" if rows == 1 else f"{rows} rows"
            return f"its output {output.name} had the shape {list(array.shape)} for {count}"
    return ""


def _nothing(_: ModelSpec) -> None:
    """Stand for the call of nobody."""
