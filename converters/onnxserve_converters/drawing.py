"""What a source knows of the rows that its model was made for: it draws some, for the comparison."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from onnxserve.tensor import Array


class Drawer(Protocol):
    """Draws inputs as a model was made for.

    Attributes:
        notes: what the draws of an input rest on, by its name, a phrase each, such as "the thresholds of the trees and
            values on both sides of them".
    """

    notes: Mapping[str, str]

    def draw(self, sizes: Mapping[str, int], rng: np.random.Generator) -> Mapping[str, Array]:
        """Return an array for each input of `notes`, in its dtype, with these sizes of the free axes."""
        ...
