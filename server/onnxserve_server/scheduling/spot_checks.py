"""Spot checks: while a model serves, a row of a batch now and then is run alone, and must get what the batch gave it.

Kernels round differently at another batch size, and what follows may enlarge the difference. So a row that differs
alone is run once more as the batch had it, at the same place among as many rows, but with copies of itself for
neighbours: there a kernel does the same arithmetic. If it differs still, its neighbours have changed it.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxserve.tensor import Array
from onnxserve_server.core import Clock
from onnxserve_server.observing import CheckResult, SpotCheck
from onnxserve_server.runtime.comparing import allowance, rounding, row_changes
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.scheduling.batch import Batch
from onnxserve_server.scheduling.extremes import Extremes
from onnxserve_server.scheduling.sampling import Sampling
from onnxserve_server.spec import ModelSpec, Rows, TensorSpec

logger = logging.getLogger(__name__)

_ALONE = 16  # roundings by which a row may differ at another batch size before it is looked at again
_REPEATS = 3  # further runs of the same rows that must give the same, else the output is random
_MAX_PASSED = 8  # batches that may go first while a check is due
_LOOK = 3e-6  # seconds of CPU time a batch, and
_LOOK_SHARE = 0.005  # share of the run time, that looking for values that no batch had before may take

Arrays = Mapping[str, Array]


class Sample(NamedTuple):
    """A row of a batch: its inputs and outputs by name, copied, its place in the batch, and the rows of that."""

    inputs: Arrays
    outputs: Arrays
    row: int
    rows: int


class SpotChecks:
    """The spot checks of one model, one at a time. Everything may be called from any thread.

    Args:
        spec: the model's; `batching.spot_checks` is the share of the run time that checks may take.
        run: runs the model once on inputs by name and returns the named outputs; raises RunFailed.
        clock: tells the time in seconds.
        on_check: called with each check that is over.
        on_dependence: called with a sentence that says which row of which output changed with its neighbours.
        cpu_time: tells the CPU time of the calling thread, in seconds.

    Attributes:
        due: what is checked next.
    """

    def __init__(
        self,
        spec: ModelSpec,
        run: Callable[[dict[str, Array], Sequence[str]], list[Array]],
        clock: Clock,
        *,
        on_check: Callable[[SpotCheck], None],
        on_dependence: Callable[[str], object],
        cpu_time: Clock = time.thread_time,
    ) -> None:
        self._spec = spec
        self._judge = Judge(spec, run)
        self._clock = clock
        self._cpu_time = cpu_time
        self._on_check = on_check
        self._on_dependence = on_dependence
        self._sampling = Sampling(spec.batching.spot_checks)
        self._extremes = Extremes(spec.inputs)
        self._looks = spec.batching.rows.rows is not Rows.INDEPENDENT
        self._looked = 0.0  # seconds
        self._batches = 0
        self._lock = threading.Lock()
        self.due: Sample | None = None
        self._passed = 0

    def after(self, batch: Batch, columns: Arrays, run_seconds: float, *, waiting: bool) -> None:
        """Take a row of a batch that was answered, if it is this one's turn, and run the check that is due.

        Call it in the batch's slot. While jobs are waiting, a check lets a few batches go first.

        Args:
            batch: its jobs have ended.
            columns: its outputs by name.
            run_seconds: what all runs of the model have taken so far.
            waiting: whether jobs wait for a slot.
        """
        if not self._lock.acquire(blocking=False):  # another slot's thread is here
            return
        try:
            if self.due is None and batch.rows > 1:
                self.due, self._passed = self._sample(batch, columns, run_seconds), 0
            if waiting and self._passed < _MAX_PASSED:
                self._passed += 1
            elif self.due is not None:
                sample, self.due = self.due, None
                self._check(sample)
        finally:
            self._lock.release()

    def _sample(self, batch: Batch, columns: Arrays, run_seconds: float) -> Sample | None:
        self._batches += 1
        if self._sampling.wants(hash(batch.jobs[0].key), run_seconds):
            return take_sample(batch, columns, self._spec)
        if not self._looks or self._looked > _LOOK * self._batches + _LOOK_SHARE * run_seconds:
            return None
        started = self._cpu_time()
        beyond = self._extremes.row_beyond(batch)
        self._looked += self._cpu_time() - started
        if beyond is None or not self._sampling.grants(run_seconds):
            return None
        self._extremes.take_in()
        return take_sample(batch, columns, self._spec, beyond)

    def _check(self, sample: Sample) -> None:
        started = self._clock()
        result, reason = CheckResult.FAILED, ""
        try:
            result, reason = self._judge(sample)
        except RunFailed as error:
            logger.debug("a spot check could not run its row: %s", error)
        except Exception:  # a defect of ours must not end the thread that all callers of the model wait for
            logger.exception("a spot check failed", extra={"model": self._spec.name, "version": self._spec.version})
        seconds = self._clock() - started
        self._sampling.note(seconds)
        self._on_check(SpotCheck(self._spec, result, seconds))
        if result is CheckResult.DEPENDENT:
            self._on_dependence(reason)


class Judge:
    """Tells what a row of a batch shows. Arguments are those of SpotChecks."""

    def __init__(self, spec: ModelSpec, run: Callable[[dict[str, Array], Sequence[str]], list[Array]]) -> None:
        self._spec = spec
        self._run = run

    def __call__(self, sample: Sample) -> tuple[CheckResult, str]:
        """Return the result, and of a dependence a sentence that says so.

        Raises:
            RunFailed: the model cannot be run on the row alone, or on copies of it.
        """
        outputs = sample.outputs
        alone = self._outputs(sample.inputs, sample)
        suspects = [spec for spec in self._returned(sample) if self._differs(spec, alone, outputs, _ALONE)]
        if not suspects:
            return CheckResult.SAME, ""
        among_copies = self._row_among_copies(sample)
        suspects = [spec for spec in suspects if self._differs(spec, among_copies, outputs)]
        if not suspects:
            return CheckResult.ROUNDING, ""
        for _ in range(_REPEATS):
            again = self._row_among_copies(sample)
            suspects = [spec for spec in suspects if not self._differs(spec, again, among_copies)]
        if not suspects:
            return CheckResult.RANDOM, ""
        return CheckResult.DEPENDENT, _sentence(suspects[0], among_copies, sample)

    def _differs(self, spec: TensorSpec, got: Arrays, wanted: Arrays, roundings: int = 1) -> bool:
        """Return whether the one row of an output differs by more than some roundings and the tolerance."""
        one, other = got[spec.name], wanted[spec.name]
        limit = max(roundings * rounding(spec), allowance(spec, other, self._spec.batching.tolerance))
        if (
            one.shape == other.shape and one.dtype.kind == "f"
        ):  # the usual case, for a tenth of what row_changes() takes
            with np.errstate(all="ignore"):
                gap = np.subtract(one, other)
                if np.abs(gap).max(initial=0.0) <= limit * np.abs(other).max(initial=0.0) < np.inf:
                    return False
        return _change(spec, one, other) > limit

    def _returned(self, sample: Sample) -> list[TensorSpec]:
        return [spec for spec in self._spec.outputs if spec.name in sample.outputs]

    def _outputs(self, feeds: Arrays, sample: Sample) -> dict[str, Array]:
        names = list(sample.outputs)
        return dict(zip(names, self._run(dict(feeds), names), strict=True))

    def _row_among_copies(self, sample: Sample) -> Arrays:
        """Return what the row gets at its place in a batch of as many rows, all copies of it."""
        inputs = self._spec.inputs
        feeds = {spec.name: spec.repeat(sample.inputs[spec.name], sample.rows) for spec in inputs}
        outputs = self._outputs(feeds, sample)
        return {spec.name: spec.cut(outputs[spec.name], sample.row, sample.row + 1) for spec in self._returned(sample)}


def take_sample(batch: Batch, columns: Arrays, spec: ModelSpec, other_than: int | None = None) -> Sample:
    """Return a copy of a random row of a batch: any row may be the one that others change.

    Args:
        batch: of at least two rows.
        columns: its outputs by name.
        spec: the model's.
        other_than: a row that may change others, and is not taken.
    """
    row = random.randrange(batch.rows - (other_than is not None))  # noqa: S311 - nothing secret
    if other_than is not None and row >= other_than:
        row += 1
    place = row
    for job in batch.jobs:
        if place < job.rows:
            break
        place -= job.rows
    inputs = zip(spec.inputs, job.inputs, strict=True)
    return Sample(
        {tensor.name: tensor.cut(array, place, place + 1).copy() for tensor, array in inputs},
        {
            tensor.name: tensor.cut(columns[tensor.name], row, row + 1).copy()
            for tensor in spec.outputs
            if tensor.name in columns
        },
        row,
        batch.rows,
    )


def _change(spec: TensorSpec, one: Array, other: Array) -> float:
    """Return how far two rows differ, as a share of the largest magnitude; inf in another shape."""
    return float(row_changes(spec, one, other).max(initial=0.0)) if one.shape == other.shape else np.inf


def _sentence(spec: TensorSpec, among_copies: Arrays, sample: Sample) -> str:
    change = _change(spec, sample.outputs[spec.name], among_copies[spec.name])
    how = "in its shape" if change == np.inf else f"by {change:.2g} of its largest magnitude"
    return (
        f"a spot check found that a row of its output {spec.name} depends on the other rows of its batch: row "
        f"{sample.row} of {sample.rows} changed {how}"
    )
