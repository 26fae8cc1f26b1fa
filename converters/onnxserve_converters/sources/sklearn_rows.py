"""Rows as an estimator was made for: what each of its parts has learned, led back to the columns of the input."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags

from onnxserve.tensor import Array
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.sources.learned_values import learned
from onnxserve_converters.sources.sklearn_export import is_missing, with_empty

Notes = dict[int, list[str]]
"""What the values of a column rest on, a phrase each, by the column's number."""

_MISSING_SHARE = 0.1
_PARTS = ("best_estimator_", "estimator_", "regressor_", "classifier_")


class FittedRows:
    """Draws inputs of what an estimator has learned; implements drawing.Drawer.

    Args:
        estimator: a fitted estimator.
        inputs: its inputs, in the order of their columns.
        columns: the estimator's columns of each input, by name.
        run: runs the estimator on inputs; it tells whether it takes missing values.

    Attributes:
        notes: as drawing.Drawer has them; empty if nothing is known.
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        inputs: Sequence[InputSpec],
        columns: Mapping[str, Sequence[int]],
        run: Callable[[Mapping[str, Array]], Any],
    ) -> None:
        self._estimator, self._inputs, self._columns = estimator, inputs, columns
        self._missing = False
        notes = self._try(run)
        phrases = {
            spec.name: [phrase for each in columns[spec.name] for phrase in notes.get(each, ())] for spec in inputs
        }
        self.notes: Mapping[str, str] = {name: ", ".join(dict.fromkeys(some)) for name, some in phrases.items() if some}

    def draw(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
        """Return arrays for the inputs of which something is known."""
        (batch,) = {str(spec.shape[0]) for spec in self._inputs if isinstance(spec.shape[0], str)} or {""}
        first = self._inputs[0].shape[0]
        rows, _ = self.table(sizes.get(batch, first if isinstance(first, int) else 1), rng)
        return {name: array for name, array in self.feeds(rows, self._inputs).items() if name in self.notes}

    def feeds(self, rows: Array, inputs: Sequence[InputSpec]) -> dict[str, Array]:
        """Return a table's columns as inputs of these dtypes."""
        return {spec.name: _array(spec, rows[:, list(self._columns[spec.name])]) for spec in inputs}

    def table(self, count: int, rng: np.random.Generator, edges: bool = True) -> tuple[Array, Notes]:
        """Return `count` rows, float64 or object, and what their columns rest on; without edges typical rows."""
        rows = self._made_up(count, rng)
        rows, notes = _Redrawer(rng, edges).redraw(self._estimator, rows)
        if self._missing and edges:
            gaps = rng.random(rows.shape) < _MISSING_SHARE * (rng.random((count, 1)) < 0.5)
            numbers = [spec.dtype != "string" for spec in self._inputs for _ in self._columns[spec.name]]
            order = [column for spec in self._inputs for column in self._columns[spec.name]]
            takes = np.zeros(rows.shape[1], bool)
            takes[order] = numbers
            rows[gaps & takes] = np.nan
            notes = {column: [*notes.get(column, ()), "missing values"] for column in range(rows.shape[1])}
        return rows, notes

    def _try(self, run: Callable[[Mapping[str, Array]], Any]) -> Notes:
        """Find out whether the estimator takes missing values, and return what the rows that it takes rest on."""
        for missing in (self._takes_missing(), False):
            self._missing = missing
            try:
                rows, notes = self.table(64, np.random.default_rng(1))
                run(self.feeds(rows, self._inputs))
            except Exception:  # noqa: S112 - the framework's, for rows that it does not take
                continue
            return notes
        return {}

    def _takes_missing(self) -> bool:
        return all(spec.dtype in ("float32", "float64", "string") for spec in self._inputs) and _takes_missing(
            self._estimator
        )

    def _made_up(self, count: int, rng: np.random.Generator) -> Array:
        width = sum(len(columns) for columns in self._columns.values())
        texts = any(spec.dtype == "string" for spec in self._inputs)
        rows: Array = rng.normal(size=(count, width)).astype(object if texts else np.float64)
        for spec in self._inputs:
            for column in self._columns[spec.name]:
                if spec.dtype == "string":
                    rows[:, column] = rng.choice(np.array(["a", "b", "c"], dtype=object), count)
                elif spec.dtype == "int64":
                    rows[:, column] = rng.integers(0, 2, count)
        return rows


class _Redrawer:
    """Replaces rows by such as an estimator was made for.

    Args:
        rng: draws them.
        edges: whether values at thresholds are drawn.
    """

    def __init__(self, rng: np.random.Generator, edges: bool) -> None:
        self._rng, self._edges = rng, edges

    def redraw(self, estimator: Any, rows: Array) -> tuple[Array, Notes]:
        """Return rows of the same shape, and what its changed columns rest on."""
        match estimator:
            case Pipeline():
                return self._steps([step for _, step in estimator.steps if not _passes(step)], rows)
            case ColumnTransformer():
                return self._by_column(estimator, rows)
            case FeatureUnion():
                return self._one_of([part for _, part in estimator.transformer_list], rows)
        drawn, notes = rows, Notes()
        for phrase, draw in learned(estimator, self._edges):
            before, drawn = drawn, draw(estimator, drawn, self._rng)
            notes = _joined(notes, {column: [phrase] for column in _changed(before, drawn)})
        if notes:
            return drawn, notes
        return self._one_of(list(_parts(estimator, rows.shape[1])), rows)

    def _steps(self, steps: Sequence[Any], rows: Array) -> tuple[Array, Notes]:
        if not steps:
            return rows, {}
        first, *rest = steps
        rows, notes = self.redraw(first, rows)
        if not rest:
            return rows, notes
        try:
            drawn, more = self._steps(rest, transformed(first, rows))
            back = inverse(first, drawn, rows) if more else None
        except Exception:  # the framework's, for rows that a step does not take: what is behind it tells nothing
            back = None
        if back is None:
            return rows, notes
        phrases = list(dict.fromkeys(phrase for some in more.values() for phrase in some))
        notes = _joined(notes, {column: [*phrases] for column in _changed(rows, back)})
        return self._mixed([rows, back] if not keeps_values(first) else [back]), notes

    def _by_column(self, estimator: ColumnTransformer, rows: Array) -> tuple[Array, Notes]:
        drawn, notes = rows.copy(), Notes()
        for _, part, columns in _column_parts(estimator):
            if _passes(part) or part == "drop":
                continue
            values, more = self.redraw(part, _part(rows, columns))
            if values.dtype == object and drawn.dtype != object:
                drawn = drawn.astype(object)
            drawn[:, columns] = values
            notes = _joined(notes, {int(columns[column]): phrases for column, phrases in more.items()})
        return drawn, notes

    def _one_of(self, parts: Sequence[Any], rows: Array) -> tuple[Array, Notes]:
        """Return rows that were each drawn for one of some estimators of the same columns."""
        drawn, notes = [], Notes()
        for part in parts:
            values, more = self.redraw(part, rows)
            if more:
                drawn.append(values)
                notes = _joined(notes, more)
        return (self._mixed(drawn) if drawn else rows), notes

    def _mixed(self, drawn: Sequence[Array]) -> Array:
        chosen = self._rng.integers(len(drawn), size=len(drawn[0]))
        mixed = drawn[0].astype(object) if any(each.dtype == object for each in drawn) else drawn[0].copy()
        for i, each in enumerate(drawn):
            mixed[chosen == i] = each[chosen == i]
        return mixed


def _array(spec: InputSpec, values: Array) -> Array:
    if spec.dtype == "string":
        values = with_empty(values)
    elif spec.dtype == "int64":
        values = np.rint(values.astype(np.float64)).astype(np.int64)
    else:
        values = values.astype(np.float64).astype(spec.dtype)
    return values.reshape(len(values), *spec.shape[1:])


def transformed(step: Any, rows: Array) -> Array:
    """Return what a step makes of rows, dense."""
    if _passes(step):
        return rows
    if isinstance(step, ColumnTransformer):
        pieces = [transformed(part, _part(rows, columns)) for _, part, columns in _column_parts(step) if part != "drop"]
        wide = any(piece.dtype == object for piece in pieces)
        return np.hstack([piece.astype(object) for piece in pieces] if wide else pieces)
    if isinstance(step, Pipeline):
        for _, each in step.steps:
            rows = transformed(each, rows)
        return rows
    made = step.transform(rows)
    array: Array = made.toarray() if hasattr(made, "toarray") else np.asarray(made)
    return array


def inverse(step: Any, ahead: Array, rows: Array) -> Array | None:
    """Return rows that a step makes `ahead` of, which began as its result for `rows`; None if there is no way back."""
    if _passes(step):
        return ahead
    match step:
        case ColumnTransformer():
            return _inverse_by_column(step, ahead, rows)
        case Pipeline(steps=[(_, first), *rest]):
            back = inverse(Pipeline(rest), ahead, transformed(first, rows)) if rest else ahead
            return None if back is None else inverse(first, back, rows)
        case SelectorMixin():
            back = rows.copy()
            back[:, step.get_support()] = ahead
            return back
        case FunctionTransformer(inverse_func=None, func=func) if func is not None:
            return None
    if hasattr(step, "missing_values"):  # an imputer: gaps stay, so that they are filled again
        gaps = (rows == step.missing_values) | is_missing(rows)
        return np.where(gaps, rows, ahead[:, : rows.shape[1]]) if ahead.shape[1] >= rows.shape[1] else None
    if not hasattr(step, "inverse_transform"):
        return None
    back = np.asarray(step.inverse_transform(ahead))
    if not hasattr(step, "categories_"):
        return back
    known = [np.isin(back[:, i].astype(str), np.asarray(each).astype(str)) for i, each in enumerate(step.categories_)]
    return np.where(np.column_stack(known), back, rows)


def _inverse_by_column(step: ColumnTransformer, ahead: Array, rows: Array) -> Array:
    """Return rows whose columns are led back as far as there is a way."""
    drawn, start = rows.copy(), 0
    for _, part, columns in _column_parts(step):
        if part == "drop":
            continue
        values = _part(rows, columns)
        width = transformed(part, values[:1]).shape[1]
        back = inverse(part, _part(ahead, range(start, start + width)), values)
        start += width
        if back is not None:
            drawn = drawn.astype(object) if back.dtype == object else drawn
            drawn[:, columns] = back
    return drawn


def keeps_values(step: Any) -> bool:
    """Whether numbers pass a step as they are, or filled in, or as whole codes of categories."""
    if isinstance(step, ColumnTransformer):
        return all(part == "drop" or keeps_values(part) for _, part, _ in _column_parts(step))
    if isinstance(step, Pipeline):
        return all(keeps_values(each) for _, each in step.steps)
    return (
        _passes(step)
        or isinstance(step, SelectorMixin)
        or hasattr(step, "missing_values")
        or hasattr(step, "categories_")
    )


def _column_parts(step: ColumnTransformer) -> Iterator[tuple[str, Any, Array]]:
    """Yield the name, the transformer and the numbers of its columns of each part that was trained."""
    for name, part, _ in step.transformers_:
        columns = np.asarray(step._transformer_to_input_indices[name], dtype=int)
        if len(columns):
            yield name, part, columns


def _parts(estimator: Any, width: int) -> Iterator[Any]:
    """Yield the estimators that an estimator asks about the same columns."""
    found = [getattr(estimator, name) for name in _PARTS if hasattr(estimator, name)]
    found += list(np.ravel(np.array(getattr(estimator, "estimators_", ()), dtype=object)))
    found += [each.estimator for each in getattr(estimator, "calibrated_classifiers_", ())]
    for each in found:
        if isinstance(each, BaseEstimator) and getattr(each, "n_features_in_", None) == width:
            yield each


def _takes_missing(estimator: Any) -> bool:
    """Whether an estimator says that it takes missing numbers."""
    try:
        return bool(get_tags(estimator).input_tags.allow_nan)
    except AttributeError:  # an estimator of another library, with tags of its own
        return True


def _passes(step: Any) -> bool:
    return step is None or (isinstance(step, str) and step == "passthrough")


def _part(rows: Array, columns: Sequence[int] | Array) -> Array:
    """Return some columns, as float64 if they are numbers."""
    values = rows[:, list(columns)]
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        return values


def _changed(rows: Array, drawn: Array) -> list[int]:
    """Return the columns that differ by more than rounding."""
    if any(each.dtype == object for each in (rows, drawn)):
        same = (rows == drawn) | (is_missing(rows) & is_missing(drawn))
    else:
        same = np.isclose(rows, drawn, rtol=1e-9, atol=0, equal_nan=True)
    return [int(column) for column in np.flatnonzero(~same.astype(bool).all(axis=0))]


def _joined(notes: Notes, more: Notes) -> Notes:
    joined = {column: list(phrases) for column, phrases in notes.items()}
    for column, phrases in more.items():
        joined[column] = list(dict.fromkeys([*joined.get(column, ()), *phrases]))
    return joined
