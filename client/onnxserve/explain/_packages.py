"""The packages of SHAP and LIME, which come with an extra and take seconds to import."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np


def load(name: str) -> Any:
    """Import a module of the extra.

    Raises:
        ImportError: its package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"explaining needs an extra: pip install 'onnxserve[explain]' ({error})") from error


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which shap draws from, and put it back as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
