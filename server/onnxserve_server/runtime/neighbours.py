"""Keep some rows of a batch, replace the others, and compare the rows that were kept."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from onnxserve.tensor import Array
from onnxserve_server.runtime import witness
from onnxserve_server.runtime.comparing import allowance, far, row_changes, tolerance_for
from onnxserve_server.runtime.draws import Draws, Feeds, Values, copied
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.runtime.limited import LimitedRuns, TookTooLong
from onnxserve_server.runtime.witness import Replaced
from onnxserve_server.spec import TensorSpec

_NOISE = 8.0  # so often the difference between two runs of the same batch


class Neighbours:
    """Looks for a row that changes with its neighbours.

    Args:
        outputs: the model's.
        draws: make the neighbours.
        runs: run the model.
        tolerance: the change of a row that is allowed, as row_changes() has it; at least the rounding of its type.

    Attributes:
        random: outputs whose values differ in two runs of the same batch; they are not compared.
    """

    def __init__(self, outputs: Sequence[TensorSpec], draws: Draws, runs: LimitedRuns, tolerance: float) -> None:
        self._outputs = outputs
        self._draws = draws
        self._runs = runs
        self._tolerance = tolerance
        self._noise: dict[str, float] = defaultdict(float)
        self._rng = np.random.default_rng(1)
        self._too_long: set[Values] = set()
        self._largest: tuple[TensorSpec, Replaced] | None = None
        self.random: set[str] = set()

    @property
    def compared(self) -> list[TensorSpec]:
        """The outputs that are the same in two runs of the same batch."""
        return [spec for spec in self._outputs if spec.name not in self.random]

    def measure_noise(self, feeds: Feeds, outputs: Feeds) -> None:
        """Run a batch again, twice, to see how far two runs of the same batch differ."""
        for _ in range(2):
            again = self._runs.run(copied(feeds))
            for spec in self._outputs:
                self._note_noise(spec, outputs[spec.name], again[spec.name])

    def check(self) -> None:
        """Judge all changes.

        Raises:
            CannotShareRuns: a row has changed; the text has the row that changed most.
        """
        if self._largest is not None:
            raise _dependence(*self._largest)

    def compare(self, feeds: Feeds, outputs: Feeds, rows: int, values: Values) -> None:
        """Replace neighbours in a batch that has run.

        Args:
            feeds: the batch.
            outputs: its outputs.
            rows: its number of rows, two or more.
            values: the kind of values it is made of.

        Raises:
            CannotShareRuns: a row has changed by more than any tolerance allows. check() raises it for smaller changes.
        """
        order = self._rng.permutation(rows)
        first, second = sorted(order[: rows // 2]), sorted(order[rows // 2 :])
        for kept, by in (
            (first, values),
            (second, Values.HIGH),
            (first, Values.ZERO),
            (second, values),
            (first, Values.LOW),
        ):
            if (self._runs.in_time or by is values) and by not in self._too_long:
                self._replace(feeds, outputs, [int(row) for row in kept], by)

    def _replace(self, feeds: Feeds, outputs: Feeds, kept: list[int], values: Values) -> None:
        changed = self._draws.with_neighbours(feeds, kept, values)
        rows = self._draws.rows_of(feeds)
        try:
            after = self._runs.run_briefly(changed, rows)
        except TookTooLong:
            self._too_long.add(values)
            return
        except RunFailed:  # the model may not know such values
            return
        witness.check_row_counts(self._outputs, after, rows)
        for spec in self.compared:
            before, other = outputs[spec.name], after[spec.name]
            if before.shape == other.shape:
                rows_kept = [0] if spec.batch_axis is None else kept
                changes = row_changes(spec, other, before)[rows_kept]
                if changes.max(initial=0.0) <= self._allowed(spec, before):
                    continue
                row = rows_kept[int(changes.argmax())]
            else:
                row = kept[0]
            self._confirm(spec, Replaced(row, 0.0, values, (feeds, changed), (before, other)))

    def _confirm(self, spec: TensorSpec, found: Replaced) -> None:
        """Run both batches again, to see how far two runs of the same batch differ; keep a row that changed by more.

        Raises:
            CannotShareRuns: no tolerance allows so large a change.
        """
        for batch, output in zip(found.batches, found.outputs, strict=True):
            for _ in range(2):
                self._note_noise(spec, output, self._runs.run(copied(batch))[spec.name])
        if spec.name in self.random:
            return
        before, after = found.outputs
        if before.shape != after.shape:
            raise witness.dependent(spec, witness.by_shape(before.shape, after.shape))
        change = float(row_changes(spec, after, before)[found.row])
        if change > self._allowed(spec, before):
            self._largest = spec, found._replace(change=change)
            if tolerance_for(spec, before, change) == np.inf:
                self.check()

    def _note_noise(self, spec: TensorSpec, output: Array, again: Array) -> None:
        alike = output.shape == again.shape
        noise = float(row_changes(spec, output, again).max(initial=0.0)) if alike else np.inf
        self._noise[spec.name] = max(self._noise[spec.name], noise)
        if noise > far(spec):
            self.random.add(spec.name)

    def _allowed(self, spec: TensorSpec, output: Array) -> float:
        """Return the change up to which a row of an output need not be looked at: none but noise of a label."""
        allowed = max(allowance(spec, output, self._tolerance), _NOISE * self._noise[spec.name])
        seen = self._largest[1].change if self._largest is not None else 0.0
        return max(allowed, 0.0 if tolerance_for(spec, output, seen) == np.inf else seen)


def _dependence(spec: TensorSpec, found: Replaced) -> witness.CannotShareRuns:
    tolerance = tolerance_for(spec, found.outputs[0], found.change)
    return witness.dependent(spec, witness.by_neighbours(spec, found), tolerance)
