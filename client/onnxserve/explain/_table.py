"""Tables: SHAP and LIME over the features of a row, which take their values from background rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxserve._models import ModelInfo
from onnxserve.explain._arrays import ExplainError
from onnxserve.explain._packages import load, seeded
from onnxserve.explain._served import Floats, Served
from onnxserve.explain._switches import Contributions
from onnxserve.tensor import Array

SHAP_ROWS = 2**17
LIME_ROWS = 5000

_MAX_EXACT = 12  # features
_PERMUTATIONS = 10
_MAX_BACKGROUND = 10_000  # rows
_MAX_CELLS = 2**26  # of the float64 array that shap makes of the rows for one call

Codes = npt.NDArray[np.intp]
"""[rows, features]: the place of each value among the rows of a table, 0 for the instance's own."""


@dataclass(frozen=True, kw_only=True)
class _Input:
    """One input of the model: some of the table's columns.

    Attributes:
        name: its name.
        values: [1 + background rows, its columns] of the model's dtype, the instance first.
        row: the shape of its row.
        columns: where its columns are among all.
    """

    name: str
    values: Array
    row: tuple[int, ...]
    columns: slice

    @property
    def is_number(self) -> bool:
        """Whether its values are floats. LIME takes all others (integers, truth values, text) for classes."""
        return self.values.dtype.kind == "f"

    def of_codes(self, codes: Codes) -> Array:
        """Return rows of the input for rows of the table."""
        mine = codes[:, self.columns]
        return self._rows(self.values[mine, np.arange(mine.shape[1])])

    def of_numbers(self, matrix: Floats) -> Array:
        """Return rows of the input for rows of numbers() and codes."""
        mine = matrix[:, self.columns]
        return self._rows(mine.astype(self.values.dtype)) if self.is_number else self.of_codes(matrix.astype(np.intp))

    def numbers(self, codes: Codes) -> Floats:
        """Return its columns for LIME: floats as they are, classes as their codes."""
        return (self.values if self.is_number else codes[:, self.columns]).astype(np.float64)

    def _rows(self, values: Array) -> Array:
        return values.reshape(len(values), *self.row)


class Table:
    """A row, and background rows from which its features take other values.

    Args:
        info: the model.
        instance: one row of each input.
        background: rows of the inputs that are varied.
        names: the names of the features; None: those of the model's metadata, or of its inputs.
    """

    def __init__(
        self,
        info: ModelInfo,
        instance: Mapping[str, Array],
        background: Mapping[str, Array],
        names: Sequence[str] | None,
    ) -> None:
        self._inputs = [*_inputs(instance, background)]
        if not self._inputs:
            raise ExplainError("the background has none of the model's inputs")
        self._codes = np.hstack([_codes(each.values) for each in self._inputs])
        self._count = self._codes.shape[1]
        self.background_rows = len(self._codes) - 1
        self.names = tuple(_names(info, self._inputs) if names is None else names)
        if len(self.names) != self._count:
            raise ExplainError(f"expected {self._count} names, one for each feature, not {len(self.names)}")

    def shap(self, served: Served, *, rows: int, seed: int) -> tuple[Contributions, int]:
        """Return Shapley values, exact if `rows` suffice, else means over permutations; and the background rows used.

        Both are exact for a model that adds up its features.
        """
        shap = load("shap")
        # SHAP treats close values as equal. Codes are never close, and represent text and large integers exactly.
        instance, background = self._codes[0], self._codes[1:]
        varying = int((background != instance).any(axis=0).sum())
        max_rows, min_rows = min(rows, _MAX_CELLS // self._count), 2 * varying + 1
        if max_rows < min_rows:
            raise ExplainError(f"rows must be at least {min_rows} for {varying} features that vary, not {rows}")
        is_exact = 0 < varying <= _MAX_EXACT and 2**varying * len(background) <= max_rows
        if not is_exact:
            background = _sample(background, min(max_rows // min_rows, _MAX_BACKGROUND), seed)
        permutations = max(1, min(_PERMUTATIONS, rows // (min_rows * len(background))))
        evaluations = 2**varying if is_exact else permutations * min_rows
        served.expected = evaluations * len(background)

        def score(matrix: Floats) -> Floats:
            codes = matrix.astype(np.intp)
            return served(
                len(codes), lambda first, last: {each.name: each.of_codes(codes[first:last]) for each in self._inputs}
            )

        kind = shap.explainers.Exact if is_exact else shap.explainers.Permutation
        with seeded(seed):
            explainer = kind(score, shap.maskers.Independent(background.astype(np.float64), len(background)))
            np.random.seed(seed)  # Permutation has just set a seed of its own
            found = explainer(instance[np.newaxis].astype(np.float64), max_evals=evaluations, silent=True)
        return Contributions(values=found.values[0], base=float(found.base_values[0]), fit=None), len(background)

    def lime(self, served: Served, *, rows: int, seed: int) -> tuple[Contributions, tuple[str, ...]]:
        """Return the weights of LIME's linear model, and the range or class that each belongs to.

        Floats are drawn from the quartiles of the background, classes by their frequency in it.
        """
        tabular = load("lime.lime_tabular")
        if rows < (min_rows := self._count + 2):
            raise ExplainError(f"rows must be at least {min_rows} for {self._count} features, not {rows}")
        matrix = np.hstack([each.numbers(self._codes) for each in self._inputs])
        if not np.isfinite(matrix).all():
            raise ExplainError("LIME does not accept missing or infinite values; SHAP accepts missing ones")
        classes = [i for each in self._inputs if not each.is_number for i in range(self._count)[each.columns]]
        explainer = tabular.LimeTabularExplainer(
            matrix[1:],
            mode="regression",
            feature_names=self.names,
            categorical_features=classes,
            feature_selection="none",
            random_state=seed,
        )
        served.expected = rows

        def score(drawn: Floats) -> Floats:
            return served(
                len(drawn), lambda first, last: {each.name: each.of_numbers(drawn[first:last]) for each in self._inputs}
            )

        found = explainer.explain_instance(matrix[0], score, num_features=self._count, num_samples=rows)
        values = np.zeros(self._count)
        for feature, weight in found.local_exp[1]:
            values[feature] = weight
        contributions = Contributions(values=values, base=float(found.intercept[1]), fit=float(found.score))
        return contributions, self._ranges(explainer.discretizer, matrix[0])

    def conditions(self) -> tuple[str, ...]:
        """Return each feature with the instance's value."""
        values = [value for each in self._inputs for value in each.values[0].tolist()]
        texts = (f"{value:.5g}" if isinstance(value, float) else str(value) for value in values)
        return tuple(f"{name} = {text}" for name, text in zip(self.names, texts, strict=True))

    def _ranges(self, discretizer: Any, row: Floats) -> tuple[str, ...]:
        """Return conditions() with a range in place of the value, for features that are cut into ranges."""
        conditions = [*self.conditions()]
        for feature, place in discretizer.lambdas.items():
            number, name = int(place(row[feature])), self.names[feature]
            low, high = discretizer.mins[feature][number], discretizer.maxs[feature][number]
            is_first, is_last = number == 0, number == len(discretizer.maxs[feature]) - 1
            bound = name if is_last else f"{name} <= {high:.5g}"
            conditions[feature] = bound if is_first else f"{name} > {low:.5g}" if is_last else f"{low:.5g} < {bound}"
        return tuple(conditions)


def _inputs(instance: Mapping[str, Array], background: Mapping[str, Array]) -> list[_Input]:
    inputs, first = [], 0
    for name in instance:
        if name not in background:
            continue
        one, many = instance[name], background[name]
        if many.shape[1:] != one.shape[1:]:
            raise ExplainError(
                f"input {name!r} has rows of shape {list(one.shape[1:])}, but its background has {list(many.shape[1:])}"
            )
        values = np.concatenate([one, many]).reshape(1 + len(many), -1)
        if not values.shape[1]:
            raise ExplainError(f"input {name!r} has no features")
        columns = slice(first, first + values.shape[1])
        inputs.append(_Input(name=name, values=values, row=one.shape[1:], columns=columns))
        first = columns.stop
    return inputs


def _codes(values: Array) -> Codes:
    """Return for each value the first row that has the same value in its column."""
    codes = np.empty(values.shape, np.intp)
    for column in range(values.shape[1]):
        _, first, inverse = np.unique(values[:, column], return_index=True, return_inverse=True)
        codes[:, column] = first[inverse]
    return codes


def _sample(background: Codes, max_rows: int, seed: int) -> Codes:
    """Return at most `max_rows` rows, drawn without replacement, in their order."""
    if len(background) <= max_rows:
        return background
    chosen = np.random.default_rng(seed).choice(len(background), max_rows, replace=False)
    return background[np.sort(chosen)]


def _names(info: ModelInfo, inputs: Sequence[_Input]) -> list[str]:
    names = [name for each in inputs for name in _names_of(each)]
    try:
        given = json.loads(info.metadata.get("feature_names", "null"))
    except ValueError:
        return names
    is_fitting = isinstance(given, list) and len(given) == len(names) and all(isinstance(name, str) for name in given)
    return given if is_fitting else names


def _names_of(each: _Input) -> list[str]:
    places = [*np.ndindex(each.row)]
    if len(places) == 1:
        return [each.name]
    return [f"{each.name}[{', '.join(map(str, place))}]" for place in places]
