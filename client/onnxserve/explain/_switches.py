"""SHAP and LIME over parts of an instance that are shown or hidden: pixels, regions, words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxserve.explain._arrays import ExplainError
from onnxserve.explain._packages import load, seeded
from onnxserve.explain._served import Floats

Switches = npt.NDArray[np.bool_]
"""[rows, parts]: True where a part is shown."""
Score = Callable[[Switches], Floats]

_MIN_ROWS = 10
_ROWS_AT_A_TIME = 64
_KERNEL_WIDTH = 0.25  # of the cosine distance, as in LIME's own explainers of images and text


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """The contribution of each part, and the base to which they add."""

    values: Floats
    base: float
    fit: float | None


def explain_switches(
    score: Score, method: str, *, shape: tuple[int, int], regions: npt.NDArray[np.intp], rows: int, seed: int
) -> Contributions:
    """Explain a function of shown and hidden parts.

    Args:
        score: returns the number for each row of switches, one switch for each cell of `shape`.
        method: "shap": the cells are halved again and again, along the longer side, where it matters most (Partition);
            "lime": a linear model of `regions`.
        shape: the grid of cells, [height, width]; a text is one line of words.
        regions: for LIME: the region of each cell, from 0 up, [height * width]; its cells are hidden together.
        rows: the approximate limit of rows to ask for.
        seed: the seed of random draws.

    Raises:
        ExplainError: `rows` is too small.
    """
    if rows < (min_rows := max(_MIN_ROWS, regions.max() + 3 if method == "lime" else 0)):
        raise ExplainError(f"rows must be at least {min_rows} here, not {rows}")
    return _shap(score, shape, rows, seed) if method == "shap" else _lime(score, regions, rows, seed)


def _shap(score: Score, shape: tuple[int, int], rows: int, seed: int) -> Contributions:
    shap = load("shap")
    # The instance is all ones, and a hidden part is zero: the masked "image" is the switches themselves.
    grid = (*shape, 1)
    explainer = shap.explainers.Partition(
        lambda shown: score(shown.reshape(len(shown), -1) > 0), shap.maskers.Image(np.zeros(grid), grid)
    )
    with seeded(seed):
        found = explainer(
            np.ones((1, *grid)), max_evals=rows, batch_size=max(2, min(_ROWS_AT_A_TIME, rows // 10)), silent=True
        )
    return Contributions(values=found.values[0].ravel(), base=float(found.base_values[0]), fit=None)


def _lime(score: Score, regions: npt.NDArray[np.intp], rows: int, seed: int) -> Contributions:
    lime_base, pairwise = load("lime.lime_base"), load("sklearn.metrics.pairwise")
    count = int(regions.max()) + 1
    generator = np.random.default_rng(seed)
    hidden = generator.integers(1, count + 1, rows)  # how many regions each row hides
    hidden[0] = 0
    shown = generator.random((rows, count)).argsort(axis=1) >= hidden[:, np.newaxis]
    distinct, inverse = np.unique(shown, axis=0, return_inverse=True)
    numbers = score(distinct[:, regions])[inverse.ravel()]
    data = shown.astype(np.float64)
    base = lime_base.LimeBase(lambda d: np.exp(-(d**2) / (2 * _KERNEL_WIDTH**2)), random_state=seed)
    intercept, weights, fit, _ = base.explain_instance_with_data(
        data,
        numbers[:, np.newaxis],
        pairwise.cosine_distances(data, data[:1]).ravel(),
        label=0,
        num_features=count,
        feature_selection="none",
    )
    values = np.zeros(count)
    for region, weight in weights:
        values[region] = weight
    sizes = np.bincount(regions)
    return Contributions(values=(values / sizes)[regions], base=float(intercept), fit=float(fit))
