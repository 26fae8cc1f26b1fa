"""Values of columns as one fitted estimator was made for, from the attributes in which it keeps what it learned."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from onnxserve.tensor import Array
from onnxserve_converters.sources.sklearn_export import is_missing
from onnxserve_converters.sources.tree_splits import histogram_order, splits

Draw = Callable[[BaseEstimator, Array, np.random.Generator], Array]
"""Returns rows [n, columns] in place of given ones; a column of which the estimator says nothing stays as it is."""

UNKNOWN = "never seen"
_UNKNOWN_SHARE = 0.1
_EDGE_SHARE = 0.4
_GAP_SHARE = 0.2
_MAX_CENTRES = 4096


def learned(estimator: Any, edges: bool) -> Iterator[tuple[str, Draw]]:
    """Yield what an estimator tells, in words, and how rows are drawn of it.

    Args:
        estimator: a fitted one that has no parts.
        edges: whether values are drawn that lie at a threshold, beside those between two.
    """
    for attributes, words, draw in _RULES:
        if all(getattr(estimator, attribute, None) is not None for attribute in attributes):
            yield f"the {words} of {type(estimator).__name__}", draw
            break
    if found := splits(estimator):
        sides = " and values on both sides of them" if edges else ""
        yield f"the thresholds of {type(estimator).__name__}'s trees{sides}", _by_splits(found, edges)


def between(values: Array, count: int, rng: np.random.Generator, edges: bool) -> Array:
    """Return `count` values, float64, in the intervals of sorted thresholds and beyond the outer ones.

    With `edges` some are thresholds and their neighbours, in float32 too: that is where x <= t differs if x or t is
    rounded.
    """
    gaps = np.diff(values)
    beyond = gaps.mean() if len(gaps) else max(1.0, abs(float(values[0])) / 2)
    bounds = np.concatenate([[values[0] - beyond], values, [values[-1] + beyond]])
    at = rng.integers(len(bounds) - 1, size=count)
    drawn: Array = bounds[at] + rng.random(count) * (bounds[at + 1] - bounds[at])
    if edges:
        near = rng.choice(_neighbours(values), count)
        drawn = np.where(rng.random(count) < _EDGE_SHARE, near, drawn)
    return drawn


def _neighbours(values: Array) -> Array:
    single = values.astype(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    steps = [values, single, np.nextafter(single, up), np.nextafter(single, down)]
    return np.concatenate([*steps, np.nextafter(values, np.inf), np.nextafter(values, -np.inf)]).astype(np.float64)


def _by_splits(found: Any, edges: bool) -> Draw:
    def draw(estimator: BaseEstimator, rows: Array, rng: np.random.Generator) -> Array:
        del estimator
        drawn = rows.copy()
        for column, values in found.items():
            drawn[:, column] = between(values, len(rows), rng, edges)
        return drawn

    return draw


def _normal(centre: str, spread: str, power: float = 1.0) -> Draw:
    """Return normal values about an attribute; of two axes, the row of one class or component each."""

    def draw(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
        means, deviations = getattr(estimator, centre), np.abs(getattr(estimator, spread)) ** power
        some = rng.integers(len(np.atleast_2d(means)), size=len(rows))
        shape = (len(rows), np.shape(means)[-1])
        drawn: Array = np.atleast_2d(means)[some] + rng.normal(size=shape) * np.atleast_2d(deviations)[some]
        return drawn

    return draw


def _uniform(low: str, high: str) -> Draw:
    def draw(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
        smallest, largest = getattr(estimator, low), getattr(estimator, high)
        beyond = 0.05 * (largest - smallest)
        return rng.uniform(smallest - beyond, largest + beyond, rows.shape)

    return draw


def _within(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
    return rng.uniform(-1, 1, rows.shape) * estimator.max_abs_


def _inverted(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
    """Return what becomes normal values; where there is none, the rows stay as they are."""
    variances = getattr(estimator, "explained_variance_", np.ones(rows.shape[1]))
    drawn = estimator.inverse_transform(rng.normal(size=(len(rows), len(variances))) * np.sqrt(variances))
    return np.where(np.isfinite(drawn), drawn, np.abs(rows) + 0.1)


def _centres(attribute: str) -> Draw:
    """Return points near the lines between rows that the estimator keeps, and some of these rows themselves."""

    def draw(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
        kept = getattr(estimator, attribute)
        kept = kept.toarray() if hasattr(kept, "toarray") else np.asarray(kept)
        if kept.ndim != 2 or kept.shape[1] != rows.shape[1]:
            return rows
        kept = kept[:: 1 + len(kept) // _MAX_CENTRES].astype(np.float64)
        one, other = rng.integers(len(kept), size=(2, len(rows)))
        share = rng.uniform(0, 0.45, (len(rows), 1)) * (rng.random((len(rows), 1)) < 0.8)
        beside = 0.1 * rng.normal(size=kept[one].shape) * np.nanstd(kept, axis=0) * (share > 0)
        drawn: Array = kept[one] + share * np.nan_to_num(kept[other] - kept[one]) + beside
        return drawn

    return draw


def _categories(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
    drawn = rows.astype(object)
    for column, known in enumerate(estimator.categories_):
        values = np.asarray(known, dtype=object)
        chosen = rng.choice(values, len(rows))
        if accepts_unknown(estimator):
            unknown = rng.random(len(rows)) < _UNKNOWN_SHARE
            chosen[unknown] = UNKNOWN if np.asarray(known).dtype.kind in "OUST" else np.nanmax(known) + 1
        drawn[:, column] = chosen
    return drawn


def accepts_unknown(encoder: Any) -> bool:
    """Whether an encoder takes values that it was not trained with."""
    return getattr(encoder, "handle_unknown", "ignore") != "error" or not hasattr(encoder, "handle_unknown")


def _codes(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
    return rng.integers(0, np.asarray(estimator.n_categories_), rows.shape).astype(np.float64)


def _counts(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
    del estimator
    return rng.poisson(2, rows.shape).astype(np.float64)


def _about_threshold(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
    return rng.normal(estimator.binarize or 0.0, 1, rows.shape)


def _bins(attribute: str) -> Draw:
    """Return values between an attribute's sorted values of each column, and at them."""

    def draw(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
        edges = getattr(estimator, attribute)
        columns = edges.T if isinstance(edges, np.ndarray) and edges.ndim == 2 else edges
        drawn = [between(np.unique(column), len(rows), rng, edges=False) for column in columns]
        return np.column_stack(drawn)

    return draw


def _histogram_categories(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
    """Return the categories of histogram boosting; its thresholds follow by themselves."""
    drawn = rows.copy()
    encoder = estimator._preprocessor.named_transformers_["encoder"]
    for column, known in zip(histogram_order(estimator), encoder.categories_, strict=False):
        drawn[:, column] = rng.choice(np.asarray(known), len(rows))
    return drawn


def _with_missing(estimator: Any, rows: Array, rng: np.random.Generator) -> Array:
    """Return rows with gaps where an imputer fills them."""
    marker = estimator.missing_values
    drawn = rows.astype(object if marker is None or isinstance(marker, str) else rows.dtype)
    kept = ~is_missing(getattr(estimator, "statistics_", np.zeros(rows.shape[1])))
    drawn[(rng.random(rows.shape) < _GAP_SHARE) & kept] = marker  # columns without a statistic are left out
    return drawn


_RULES: tuple[tuple[tuple[str, ...], str, Draw], ...] = (
    (("categories_",), "categories", _categories),
    (("_preprocessor", "is_categorical_"), "categories", _histogram_categories),
    (("missing_values",), "gaps", _with_missing),
    (("bin_edges_",), "bins", _bins("bin_edges_")),
    (("quantiles_",), "quantiles", _bins("quantiles_")),
    (("data_min_", "data_max_"), "ranges", _uniform("data_min_", "data_max_")),
    (("center_", "scale_"), "centres and scales", _normal("center_", "scale_")),
    (("max_abs_",), "ranges", _within),
    (("mean_", "components_", "explained_variance_"), "means and variances", _inverted),
    (("lambdas_",), "inverse", _inverted),
    (("mean_", "var_"), "means and scales", _normal("mean_", "var_", 0.5)),
    (("theta_", "var_"), "means and variances", _normal("theta_", "var_", 0.5)),
    (("n_categories_",), "numbers of categories", _codes),
    (("binarize", "feature_log_prob_"), "threshold", _about_threshold),
    (("feature_count_", "feature_log_prob_"), "counts", _counts),
    (("_fit_X",), "training rows", _centres("_fit_X")),
    (("X_train_",), "training rows", _centres("X_train_")),
    (("X_fit_",), "training rows", _centres("X_fit_")),
    (("support_vectors_",), "support vectors", _centres("support_vectors_")),
    (("cluster_centers_",), "centres", _centres("cluster_centers_")),
    (("means_",), "means", _centres("means_")),
)
"""Attributes that an estimator must have, what they are, and rows drawn of them; the first that fits."""
