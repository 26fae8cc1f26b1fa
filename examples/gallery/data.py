"""Data that scikit-learn carries, and two made-up tasks, as the gallery's models take them."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.model_selection import train_test_split

Array = np.ndarray


class Split(NamedTuple):
    """Rows and what is right for each, to learn from and held out."""

    x: Array
    y: Array
    held_out_x: Array
    held_out_y: Array


def xor() -> tuple[Array, Array]:
    """Return the four cases, float32 [4, 2] and [4, 1]."""
    return np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), np.array([[0], [1], [1], [0]], np.float32)


def digits() -> Split:
    """Return handwritten digits, float32 [n, 3, 32, 32] from 0 (paper) to 1 (ink), and which they are, int64 [n].

    Each of the 8x8 pixels is a block of 4x4, and all three channels are the same.
    """
    images, labels = load_digits(return_X_y=True)
    small = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return _split(small.repeat(4, axis=2).repeat(4, axis=3).repeat(3, axis=1), labels)


def tumours() -> Split:
    """Return measurements of tumours, float32 [n, 30] of mean 0 and deviation 1, and 1 where benign, float32 [n, 1]."""
    x, y = load_breast_cancer(return_X_y=True)
    return _split(_standardised(x), y.astype(np.float32)[:, None])


def wine() -> Split:
    """Return analyses of wines as they were measured, float32 [n, 13], and which of three growers, int64 [n]."""
    x, y = load_wine(return_X_y=True)
    return _split(x.astype(np.float32), y)


def diabetes() -> Split:
    """Return patients, float32 [n, 10], and how their illness went on within a year, float32 [n, 1] from 25 to 346."""
    x, y = load_diabetes(return_X_y=True)
    return _split(_standardised(x), y.astype(np.float32)[:, None])


def largest() -> Split:
    """Return points, float32 [n, 10], and the index of their largest coordinate, int64 [n]."""
    x = np.random.default_rng(0).normal(size=(4000, 10)).astype(np.float32)
    return _split(x, x.argmax(axis=1))


def _standardised(x: Array) -> Array:
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)


def _split(x: Array, y: Array) -> Split:
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, random_state=0)
    return Split(x_train, y_train, x_test, y_test)
