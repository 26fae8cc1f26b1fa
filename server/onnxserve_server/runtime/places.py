"""Compare the rows of a batch with what each gives alone, and at another place of the batch."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from onnxserve.tensor import Array
from onnxserve_server.runtime import witness
from onnxserve_server.runtime.comparing import allowance, far, row_changes, tolerance_for
from onnxserve_server.runtime.draws import Draws, Feeds
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.runtime.limited import LimitedRuns
from onnxserve_server.spec import TensorSpec

_MAX_ALONE = 3  # rows of a batch that are run alone
_SHARE = 0.45  # of the rows: so many are no accident of rounding, which is much enlarged for some values


class _Group(NamedTuple):
    """Differences that are judged together: of an output, at a batch size, of rows alone or of rows moved in it."""

    spec: TensorSpec
    rows: int
    alone: bool


class _Difference(NamedTuple):
    """How far a row changed, and its outputs: in the batch, and elsewhere."""

    change: float
    here: Array
    elsewhere: Array


@dataclass
class _Differences:
    """Those of a group: how far each row changed, and the worst of them, whose outputs alone are kept."""

    changes: list[float] = field(default_factory=list)
    worst: _Difference | None = None


class Places:
    """Collects the differences of rows between places. `tolerance` is as Neighbours has it."""

    def __init__(self, draws: Draws, runs: LimitedRuns, tolerance: float) -> None:
        self._draws = draws
        self._runs = runs
        self._tolerance = tolerance
        self._found: dict[_Group, _Differences] = defaultdict(_Differences)

    @property
    def rounding(self) -> float:
        """The largest difference of a row of floats, as row_changes() has it."""
        worst = (each.worst for each in self._found.values() if each.worst is not None)
        return max((each.change for each in worst if each.here.dtype.kind == "f"), default=0.0)

    @property
    def suspects(self) -> set[int]:
        """The batch sizes at which many rows are far from what they are elsewhere."""
        return {group.rows for group in self._found if self._is_far(group)}

    def compare(self, specs: Sequence[TensorSpec], feeds: Feeds, outputs: Feeds, rows: int) -> None:
        """Run some rows of a batch alone, and the batch in another order.

        Args:
            specs: the outputs to compare.
            feeds: the batch.
            outputs: its outputs.
            rows: its number of rows, two or more.

        Raises:
            CannotShareRuns: a row has another shape there.
        """
        singles = [[row] for row in range(rows)][-_MAX_ALONE:]
        for order in [*singles, [*range(1, rows), 0]]:
            if not self._runs.in_time and order is not singles[0]:
                return
            try:
                moved = self._runs.run_briefly(self._draws.take(feeds, order), len(order))
            except RunFailed:
                continue
            for spec in specs:
                here = outputs[spec.name]
                if spec.batch_axis is not None:
                    here = here.take(order, spec.batch_axis)
                self._compare_one(_Group(spec, rows, len(order) == 1), here, moved[spec.name])

    def check(self) -> None:
        """Judge all differences.

        Raises:
            CannotShareRuns: many rows of an output are far from what they are elsewhere.
        """
        for group in filter(self._is_far, self._found):
            worst = self._found[group].worst
            assert worst is not None
            raise witness.dependent(
                group.spec,
                witness.by_place(group.rows, worst.change, worst.elsewhere, worst.here, group.alone),
                tolerance_for(group.spec, worst.here, worst.change),
            )

    def _compare_one(self, group: _Group, here: Array, elsewhere: Array) -> None:
        if here.shape != elsewhere.shape:
            raise witness.dependent(group.spec, witness.by_shape(here.shape, elsewhere.shape))
        found = self._found[group]
        for row, change in enumerate(row_changes(group.spec, here, elsewhere).tolist()):
            found.changes.append(change)
            if found.worst is None or change > found.worst.change:
                parts = [group.spec.cut(array, row, row + 1).copy() for array in (here, elsewhere)]  # not a whole batch
                found.worst = _Difference(change, *parts)

    def _is_far(self, group: _Group) -> bool:
        changes, worst = self._found[group].changes, self._found[group].worst
        if worst is None:
            return False
        limit = max(far(group.spec), allowance(group.spec, worst.here, self._tolerance))
        return sum(change > limit for change in changes) > _SHARE * len(changes)
