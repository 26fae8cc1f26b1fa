"""Try whether the rows of a run change each other's outputs.

The runs of one batch size are compared with each other: a row that is kept while its neighbours are replaced must keep
its outputs, to a few roundings, for a kernel does the same arithmetic for it at the same place. What differs beyond
that is a *witness*: the rows depend on each other. Rows alone, and at other places of a batch, may be added up in
another order: there the difference is reported, and counts only if many rows show it and it is far beyond rounding.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from onnxserve_server.runtime.axes import share
from onnxserve_server.runtime.draws import Draws, Feeds, Hints, Values, is_integer
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.runtime.first_rows import TOO_LARGE, first_that_runs
from onnxserve_server.runtime.integer_limits import widen
from onnxserve_server.runtime.limited import OUT_OF_TIME, LimitedRuns, TookTooLong, size_of
from onnxserve_server.runtime.neighbours import Neighbours
from onnxserve_server.runtime.places import Places
from onnxserve_server.runtime.row_hints import hints_of
from onnxserve_server.runtime.session import Session
from onnxserve_server.runtime.verdict import (
    Verdict,
    check_batch_axes,
    cure_by_axes,
    fault_of_defaults,
    fault_of_output_axes,
)
from onnxserve_server.runtime.witness import CannotShareRuns, check_row_counts
from onnxserve_server.spec import Rows, RowVerdict, TensorSpec

_SECONDS = 5.0  # after which only the first batch is still checked
_SECONDS_IF_PROVED = 2.0
_LONG = 1.0  # seconds of one row, from which the first batch has two rows
_MAX_BYTES = 256 << 20  # of the inputs and outputs of one batch
_ROUNDS = ((3, Values.SMALL), (2, Values.WIDE), (5, Values.WIDE), (8, Values.SMALL))
_ROUNDS_IF_PROVED = _ROUNDS[:2]
_OTHERS = (Values.POSITIVE, Values.ONE)  # if a model with integers does not run on what it ran on for one row
_CURE_BY_KNOWLEDGE = "; `batching.enabled: true` is right only if they never change each other"
_CURE_BY_ROWS = " (give it rows that it runs on as check.rows in report.json beside the model)"
_GROWTH, _MIN_GROWN = 16, 1 << 20  # so often the bytes of a row, and bytes: what makes more of them is a size


def examine(session: Session, max_seconds: float = math.inf) -> Verdict:
    """Judge whether requests may share the runs of a model: by its shapes, by its graph, and by trying.

    Args:
        session: the model.
        max_seconds: time for the analysis of the graph, if that is less than it takes at most.
    """
    declared = check_batch_axes(session.inputs, ())
    if not declared.batchable:
        return declared
    started = time.monotonic()
    analysed, shared = _analyse(session, session.inputs, session.outputs, max_seconds)
    outputs = share(session.outputs, shared)
    declared = check_batch_axes(session.inputs, outputs)
    if not declared.batchable:
        return declared
    with LimitedRuns(session, _SECONDS_IF_PROVED if analysed.rows is Rows.INDEPENDENT else _SECONDS) as runs:
        found = replace(_try(session, outputs, runs, analysed), shared=shared)
    if analysed.rows is not Rows.MEET:
        return found
    return replace(found, reason=found.reason + _second_axes(session, max_seconds - (time.monotonic() - started)))


def _second_axes(session: Session, max_seconds: float) -> str:
    """Return, in brackets, how to say that rows lie along the second axes, if the graph proves them independent there.

    So it is with recurrent networks that take steps first. "" for models that are configured, and for all others.
    """
    if session.options.axes.batch_axis or not all(map(_has_free_second, session.inputs)):
        return ""
    inputs, outputs = (
        tuple(replace(spec, batch_axis=1) if _has_free_second(spec) else spec for spec in specs)
        for specs in (session.inputs, session.outputs)
    )
    if _analyse(session, inputs, outputs, max_seconds)[0].rows is not Rows.INDEPENDENT:
        return ""
    return cure_by_axes({spec.name: 1 for spec in (*inputs, *outputs) if spec.batch_axis == 1})


def _has_free_second(spec: TensorSpec) -> bool:
    return isinstance(dict(enumerate(spec.shape)).get(1), str)


def _try(session: Session, outputs: tuple[TensorSpec, ...], runs: LimitedRuns, analysed: RowVerdict) -> Verdict:
    """Judge a model whose shapes allow that requests share runs, and of whose rows the graph shows `analysed`."""
    hints = hints_of(session)
    try:
        draws, values, _ = first_that_runs(session.inputs, hints, runs.measure)
    except RunFailed as error:
        cure = "" if str(error) in (TOO_LARGE, OUT_OF_TIME) else _CURE_BY_ROWS
        return Verdict(False, f"the check found no input that it runs on: {error}{cure}", analysed, analysed)
    check = _RowCheck(session, outputs, draws, values, runs)
    try:
        check.run(hints, _ROUNDS_IF_PROVED if analysed.rows is Rows.INDEPENDENT else _ROUNDS)
    except CannotShareRuns as found:
        return found.verdict.beside(analysed)
    return check.verdict(analysed)


def _analyse(
    session: Session, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], max_seconds: float
) -> tuple[RowVerdict, tuple[str, ...]]:
    """Return what the graph shows of the rows of a model, and which of its outputs are the same for all of them."""
    try:  # here, for the server itself imports this module, and needs no onnx
        from onnxserve_server.rows.analysis import MAX_SECONDS, analyse_outputs
    except ImportError:
        return RowVerdict(reason="the graph was not analysed, for the package onnx is not installed"), ()
    # Inputs with a default are given: they are no constants, for a request may bring others.
    analysed, shared = analyse_outputs(
        session.path,
        inputs + session.optional,
        outputs,
        max_seconds=min(MAX_SECONDS, max_seconds),
    )
    return analysed, () if session.is_random else shared  # each request is to have random values of its own


class _RowCheck:
    """The check of one model. `base` is the kind of values that it is known to run on."""

    def __init__(
        self, session: Session, outputs: tuple[TensorSpec, ...], draws: Draws, base: Values, runs: LimitedRuns
    ) -> None:
        tolerance = self._tolerance = session.options.tolerance or 0.0
        self._draws = draws
        self._runs = runs
        self._inputs = session.inputs
        self._optional = session.optional
        self._outputs = outputs
        self._neighbours = Neighbours(outputs, draws, runs, tolerance)
        self._places = Places(draws, runs, tolerance)
        self._tried: list[int] = []
        self._left_out: list[int] = []
        self._too_long: set[Values] = set()
        self._failure = "" if self._fits(2) else f"two take more than {_MAX_BYTES >> 20} MiB with their outputs"
        self._kinds = (base, *(_OTHERS if any(map(is_integer, session.inputs)) else ()))

    def run(self, hints: Hints, rounds: tuple[tuple[int, Values], ...]) -> None:
        """Make the runs.

        Raises:
            CannotShareRuns: they show that rows cannot share runs.
        """
        widen(self._draws, {*hints.ranges, *self._draws.rows}, self._accepts)
        for rows, values in rounds:
            count = 2 if self._is_heavy(rows) else rows
            if self._fits(count) and (not self._tried or (self._runs.in_time and self._fits(rows))):
                self._round(count, values)
            else:
                self._left_out.append(rows)
        for rows in self._places.suspects:
            for _ in range(2):  # values for which rounding is much enlarged are rare
                self._round(rows, Values.WIDE)
        self._neighbours.check()
        self._places.check()

    def verdict(self, analysed: RowVerdict) -> Verdict:
        """Return the verdict of a check that found nothing against sharing runs."""
        if not self._tried:
            fault, proved = f"no batch of made-up rows could be run: {self._failure}", analysed.rows is Rows.INDEPENDENT
            return Verdict(proved, "" if proved else fault, replace(analysed, reason=fault), analysed)
        reason = "; ".join(filter(None, (analysed.reason, *self._summary())))
        if analysed.rows is Rows.MEET:
            where = f"its rows meet at node {analysed.node}: {reason}{_CURE_BY_KNOWLEDGE}"
            return Verdict(False, where, replace(analysed, reason=reason), analysed)
        fault = ""
        if analysed.rows is not Rows.INDEPENDENT:
            fault = fault_of_output_axes(self._inputs, self._outputs) or fault_of_defaults(self._optional)
        return Verdict(not fault, fault, replace(analysed, reason=reason), analysed)

    def _summary(self) -> Iterator[str]:
        much = f" by more than the tolerance of {self._tolerance:g}" if self._tolerance else ""
        yield f"no row changed with its neighbours{much} in {self._runs.count} runs of made-up rows"
        if self._places.rounding:
            yield f"rounding at other batch sizes differs by up to {self._places.rounding:.1g} of the largest value"
        if random := sorted(self._neighbours.random):
            yield f"not compared, for two runs of the same rows differ: {', '.join(random)}"
        if self._left_out:
            yield f"not tried for lack of time or memory: batches of {', '.join(map(str, self._left_out))} rows"

    def _round(self, rows: int, values: Values) -> None:
        for kind in dict.fromkeys((values, *self._kinds)):
            if kind in self._too_long:
                continue
            feeds = self._draws.feed(rows, kind)
            try:
                outputs = self._runs.run_briefly(feeds, rows)
            except TookTooLong as error:
                self._failure = str(error)
                self._too_long.add(kind)
                continue
            except RunFailed as error:
                self._failure = str(error)
                self._check_each_runs(feeds, rows, str(error))
                continue
            try:
                self._compare(feeds, outputs, rows, kind)
            except RunFailed:  # it ran before: out of time
                self._left_out.append(rows)
            return

    def _compare(self, feeds: Feeds, outputs: Feeds, rows: int, values: Values) -> None:
        check_row_counts(self._outputs, outputs, rows)
        if not self._tried:
            self._neighbours.measure_noise(feeds, outputs)
        self._tried.append(rows)
        self._neighbours.compare(feeds, outputs, rows, values)
        self._places.compare(self._neighbours.compared, feeds, outputs, rows)

    def _check_each_runs(self, feeds: Feeds, rows: int, failure: str) -> None:
        """Find out whose fault it is that a batch fails.

        Raises:
            CannotShareRuns: each of its rows runs alone.
        """
        try:
            for row in range(rows):
                self._runs.run_briefly(self._draws.take(feeds, [row]), 1)
        except RunFailed:
            return
        raise CannotShareRuns(Verdict(False, f"it runs with 1 row but not with {rows}: {failure}"))

    def _accepts(self, integers: Mapping[str, int]) -> bool:
        if not self._runs.in_time:
            return False
        feeds = self._draws.constant(integers)
        try:
            outputs = self._runs.run_briefly(feeds, 1)
        except RunFailed:
            return False
        return size_of(feeds, outputs) <= max(_MIN_GROWN, _GROWTH * self._runs.row_bytes)

    def _is_heavy(self, rows: int) -> bool:
        return self._runs.row_seconds > _LONG or not self._fits(rows)

    def _fits(self, rows: int) -> bool:
        return rows * self._runs.row_bytes <= _MAX_BYTES
