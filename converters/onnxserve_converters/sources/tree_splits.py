"""The values at which trees split their columns: of scikit-learn's, LightGBM's, XGBoost's and CatBoost's."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from onnxserve.tensor import Array

Splits = Mapping[int, Array]
"""By column: float64, sorted, each value once."""

_INFINITE = 1e30  # what is beyond it divides missing values from all others


def splits(estimator: Any) -> Splits:
    """Return the thresholds and the categories of all trees in an estimator; {} where it has none."""
    found: dict[int, list[Array]] = {}
    for column, values in _read(estimator):
        found.setdefault(column, []).append(np.asarray(values, np.float64))
    merged = {column: np.unique(np.concatenate(values)) for column, values in found.items()}
    finite = {column: values[np.abs(values) < _INFINITE] for column, values in merged.items()}
    return {column: values for column, values in finite.items() if len(values)}


def _read(estimator: Any) -> Iterator[tuple[int, Any]]:
    for attribute, read in _READERS.items():
        if hasattr(estimator, attribute):
            yield from read(estimator)
            return


def _tree(estimator: Any) -> Iterator[tuple[int, Any]]:
    tree = estimator.tree_
    for column in np.unique(tree.feature[tree.feature >= 0]):
        yield int(column), tree.threshold[tree.feature == column]


def _trees(estimator: Any) -> Iterator[tuple[int, Any]]:
    """Yield those of an ensemble, whose members may each see some of the columns."""
    members = np.ravel(np.asarray(estimator.estimators_, dtype=object))
    seen = getattr(estimator, "estimators_features_", [None] * len(members))
    for member, columns in zip(members, seen, strict=False):
        if hasattr(member, "tree_"):
            for column, values in _tree(member):
                yield (column if columns is None else int(columns[column])), values


def _histogram(estimator: Any) -> Iterator[tuple[int, Any]]:
    """Yield those of histogram boosting, whose columns are reordered if some are categories."""
    order = histogram_order(estimator)
    for trees in estimator._predictors:
        for tree in trees:
            nodes = tree.nodes[(tree.nodes["is_leaf"] == 0) & (tree.nodes["is_categorical"] == 0)]
            for column in np.unique(nodes["feature_idx"]):
                yield int(order[column]), nodes["num_threshold"][nodes["feature_idx"] == column]


def histogram_order(estimator: Any) -> Array:
    """Return the input's column of each column that the trees of histogram boosting see: categories come first."""
    categorical = estimator.is_categorical_
    columns: Array = np.arange(estimator.n_features_in_)
    if categorical is None:
        return columns
    return np.concatenate([columns[categorical], columns[~categorical]])


def _lightgbm(estimator: Any) -> Iterator[tuple[int, Any]]:
    booster = getattr(estimator, "booster_", estimator)
    for tree in booster.dump_model()["tree_info"]:
        yield from _lightgbm_node(tree["tree_structure"])


def _lightgbm_node(node: Any) -> Iterator[tuple[int, Any]]:
    if "split_feature" in node:
        yield node["split_feature"], [float(value) for value in str(node["threshold"]).split("||")]
        yield from _lightgbm_node(node["left_child"])
        yield from _lightgbm_node(node["right_child"])


def _xgboost(estimator: Any) -> Iterator[tuple[int, Any]]:
    booster = estimator.get_booster() if hasattr(estimator, "get_booster") else estimator
    names = {name: i for i, name in enumerate(booster.feature_names or ())}
    for tree in booster.get_dump(dump_format="json"):
        yield from _xgboost_node(json.loads(tree), names)


def _xgboost_node(node: Any, names: Mapping[str, int]) -> Iterator[tuple[int, Any]]:
    if "split" in node:
        name = str(node["split"])
        yield (
            names[name] if name in names else int(name.removeprefix("f")),
            np.float32(np.ravel(node.get("split_condition", 0.5))),
        )
        for child in node["children"]:
            yield from _xgboost_node(child, names)


def _catboost(estimator: Any) -> Iterator[tuple[int, Any]]:
    for column, borders in estimator.get_borders().items():
        yield int(column), borders


_READERS: Mapping[str, Callable[[Any], Iterator[tuple[int, Any]]]] = {
    "tree_": _tree,
    "_predictors": _histogram,
    "estimators_": _trees,
    "get_booster": _xgboost,
    "get_dump": _xgboost,
    "booster_": _lightgbm,
    "dump_model": _lightgbm,  # which a Booster of XGBoost has, too
    "get_borders": _catboost,
}
"""By an attribute that such estimators have, in the order in which they are looked for."""
