"""What a source knows of the rows that its model was made for: it draws some, for the comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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


@dataclass(frozen=True, slots=True)
class Limits:
    """The smallest and the largest value that a model takes for an input, and a phrase that says how that is known."""

    low: float
    high: float
    why: str


@runtime_checkable
class KnowsLimits(Protocol):
    """A model that can tell the limits of some of its inputs."""

    def value_limits(self, examples: Sequence[Mapping[str, Array]]) -> Mapping[str, Limits]:
        """Return what is known, by input.

        Args:
            examples: inputs that the model accepts, twice or more with different values.

        Raises:
            Exception: of any class, from the framework, if the model fails on these arrays.
        """
        ...
