"""A request of more rows than one run takes: several jobs behind one answer."""

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from onnxserve.tensor import Array
from onnxserve_server.core import Done, Job, Receipt, Result
from onnxserve_server.errors import ServeError
from onnxserve_server.spec import TensorSpec


class Runs(Protocol):
    """A model, as far as a split job needs it."""

    @property
    def joins(self) -> bool:
        """Whether the rows of the model are still taken to be independent, so that a job may run in parts."""
        ...

    def check_answer(self, outputs: Sequence[tuple[TensorSpec, Array]]) -> None:
        """Raise ResponseTooLarge if these outputs, of all parts, are more than one answer may hold."""
        ...

    def run_whole(self, job: Job, fault: str) -> None:
        """Run a job that has run in parts once more, in one run. `fault`: why its parts cannot be joined, if so."""
        ...


class Split:
    """Cuts a job into parts of at most `max_rows` rows and joins their results in order.

    The first part that fails ends the whole, and the other parts with it. If rows turn out to depend on each other
    meanwhile, or the results cannot be joined, the whole is run in one run. An output that all rows share is taken from
    the first part. `inputs` are those of the model.
    """

    def __init__(self, whole: Job, max_rows: int, inputs: Sequence[TensorSpec], model: Runs) -> None:
        self._whole = whole
        self._inputs = inputs
        self._model = model
        self._lock = threading.Lock()
        starts = range(0, whole.rows, max_rows)
        self._missing = len(starts)
        self._results: list[Result | None] = [None] * len(starts)
        self.parts = [self._part(i, start, min(start + max_rows, whole.rows)) for i, start in enumerate(starts)]
        whole.leave = lambda _: self.withdraw_parts()

    def withdraw_parts(self) -> None:
        """End what is left of the parts."""
        for part in self.parts:
            part.cancel()

    def _part(self, i: int, start: int, stop: int) -> Job:
        whole = self._whole
        return Job(
            inputs=tuple(
                tensor.cut(array, start, stop) for tensor, array in zip(self._inputs, whole.inputs, strict=True)
            ),
            outputs=whole.outputs,
            rows=stop - start,
            nbytes=whole.nbytes * (stop - start) // whole.rows,
            key=whole.key,
            arrived=whole.arrived,
            deadline=whole.deadline,
            priority=whole.priority,
            rank=whole.rank,
            done=self._collector(i),
            trace=whole.trace,
            answered=whole.answered,
        )

    def _collector(self, i: int) -> Done:
        def collect(outcome: Result | ServeError) -> None:
            if isinstance(outcome, ServeError):
                self._whole.withdraw(outcome)
                return
            with self._lock:
                self._results[i] = outcome
                self._missing -= 1
                complete = self._missing == 0
            if complete:
                self._finish()

        return collect

    def _finish(self) -> None:
        fault = ""
        if self._model.joins:
            try:
                self._whole.end(self._joined())
                return
            except ServeError as error:  # too large
                self._whole.end(error)
                return
            except ValueError as error:  # rows of different shapes
                fault = str(error)
        self._results.clear()
        self._model.run_whole(self._whole, fault)

    def _joined(self) -> Result:
        results = [result for result in self._results if result is not None]
        answered = self._whole.answered
        columns = [
            (output, [result.outputs[i][1] for result in (results[:1] if output.batch_axis is None else results)])
            for i, output in enumerate(self._whole.outputs)
        ]
        self._model.check_answer([(output, array) for output, arrays in columns[:answered] for array in arrays])
        outputs = [
            (output, arrays[0] if output.batch_axis is None else np.concatenate(arrays, output.batch_axis))
            for output, arrays in columns
        ]
        receipts = [result.receipt for result in results]
        largest = max(receipts, key=lambda receipt: receipt.batch_rows)
        return Result(
            results[0].model,
            results[0].version,
            outputs,
            Receipt(
                queue_us=max(receipt.queue_us for receipt in receipts),
                batch_wait_us=max(receipt.batch_wait_us for receipt in receipts),
                compute_us=sum(receipt.compute_us for receipt in receipts),
                batch_rows=largest.batch_rows,
                batch_requests=largest.batch_requests,
                provider=largest.provider,
            ),
        )
