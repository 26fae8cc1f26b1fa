"""The result of explaining a prediction."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxserve.explain._served import Floats

Method = Literal["shap", "lime"]
Kind = Literal["table", "image", "text", "tokens"]

_TILES = 8  # along each side of an image, for top()


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """How much each part of an instance moved one number of the model's answer.

    With SHAP, `base` and all `values` add up to the prediction. With LIME they are a linear model of the neighbourhood
    of the instance; `fit` rates it.
    """

    kind: Kind
    """The kind of instance."""
    method: Method
    """The method that explained it."""
    model: str
    """The model's name."""
    version: str
    """The version that answered."""
    output: str
    """The output explained."""
    index: int | None
    """The index of the explained class along the output's last axis; None for an output of one number a row."""
    label: str
    """The name of the class; "" if unknown."""
    prediction: float
    """The model's number for the instance."""
    base: float
    """SHAP: the mean of the number when every part is hidden. LIME: the intercept of its linear model."""
    values: Floats
    """The contribution of each part, in the output's unit; positive ones moved the number up. Tables: [features]; text:
    [words]; token ids: [positions]; images: [height, width], where the contribution of a region is spread evenly over
    its pixels, so that the contribution of any area is the sum over its pixels."""
    names: tuple[str, ...]
    """The features, words or positions, in the order of `values`; () for images."""
    fit: float | None
    """LIME: the fraction of the answers' variance that its linear model explains (R²), at most 1. None with SHAP."""
    rows: int
    """Rows sent to the server."""
    requests: int
    """Requests sent to the server."""
    batch_rows: int
    """The rows of the largest batch in the server."""
    seed: int
    """The seed of random draws."""
    conditions: tuple[str, ...] = ()
    """For tables: the explained property of each feature: its value, or with LIME its range. Else ()."""
    background_rows: int = 0
    """The number of background rows that were used; for tables only."""
    regions: npt.NDArray[np.intp] | None = field(default=None, repr=False)
    """For images with LIME: the number of each pixel's region, [height, width], from 0; not in to_json()."""
    image: Floats | None = field(default=None, repr=False)
    """The image, [height, width] or [height, width, 3], from 0 to 1; not in to_json()."""

    @property
    def target(self) -> str:
        """The output that is explained, and the class, as text."""
        if self.index is None:
            return self.output
        return f"{self.output}[{self.label or self.index}]"

    def top(self, count: int = 10) -> list[tuple[str, float]]:
        """Return the strongest contributions, strongest first, as names and values.

        The parts of an image are LIME's regions, as in plot(); with SHAP, whose parts have many sizes, they are tiles.
        """
        names, values = self._parts()
        order = np.argsort(-np.abs(values), kind="stable")[:count]
        return [(names[part], float(values[part])) for part in order]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the image and its regions as dicts, lists, strings and numbers."""
        left_out = {"image", "regions", "values", "names", "conditions"}
        facts = {name: value for name, value in vars(self).items() if name not in left_out}
        return facts | {
            "names": list(self.names),
            "conditions": list(self.conditions),
            "shape": list(self.values.shape),
            "values": self.values.tolist(),
        }

    def to_json(self) -> str:
        """Return to_dict() as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def plot(self) -> bytes:
        """Return a picture of the explanation, as the bytes of a PNG file.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from onnxserve.explain._plots import png

        return png(self)

    def _parts(self) -> tuple[tuple[str, ...], Floats]:
        if self.values.ndim == 1:
            return self.conditions or self.names, self.values
        regions = _tiles(*self.values.shape) if self.regions is None else self.regions
        parts = [regions == region for region in range(regions.max() + 1)]
        return tuple(map(_place, parts)), np.array([self.values[part].sum() for part in parts])


def _tiles(rows: int, columns: int) -> npt.NDArray[np.intp]:
    """Return the number of each pixel's tile, [rows, columns]."""
    height, width = (-(-size // min(size, _TILES)) for size in (rows, columns))
    across = -(-columns // width)
    return np.arange(rows)[:, np.newaxis] // height * across + np.arange(columns) // width


def _place(within: npt.NDArray[np.bool_]) -> str:
    """Return a description of the place of some pixels, given as [height, width]."""
    rows, columns = np.nonzero(within)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    box = f"rows {top} to {bottom}, columns {left} to {right}"
    return box if len(rows) == (bottom - top + 1) * (right - left + 1) else f"{len(rows)} pixels in {box}"
