"""Explanations as pictures."""

import io
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from onnxserve.explain._explanation import Explanation

_UP, _DOWN = "#c2304a", "#2f6db5"
_COLOURS = LinearSegmentedColormap.from_list("contributions", [_DOWN, "#f4f4f4", _UP])
_TEXT, _GRID = "#222222", "#dddddd"
_BARS = 15
_MAX_NAME = 48  # characters of a name
_DPI = 150


def png(explanation: Explanation) -> bytes:
    """Return an explanation as the bytes of a PNG file: bars, or an image beside a map of its parts' contributions."""
    figure = _image(explanation) if explanation.image is not None else _bars(explanation)
    figure.suptitle(_title(explanation), color=_TEXT, fontsize=10, parse_math=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    return file.getvalue()


def _bars(explanation: Explanation) -> Figure:
    strongest = explanation.top(_BARS)
    figure = _figure(7.0, 1.4 + 0.28 * len(strongest))
    axes = figure.add_subplot()
    places = np.arange(len(strongest))
    values = [value for _, value in strongest]
    bars = axes.barh(places, values, color=[_UP if value > 0 else _DOWN for value in values], height=0.7)
    axes.bar_label(bars, fmt="%+.3g", padding=3, color=_TEXT, fontsize=8)
    axes.set_yticks(places, [_short(name) for name, _ in strongest], color=_TEXT, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.axvline(0, color=_TEXT, linewidth=0.8)
    axes.set_xlabel(f"contribution to {_short(explanation.target)}", color=_TEXT, fontsize=8, parse_math=False)
    _lighten(axes)
    return figure


def _image(explanation: Explanation) -> Figure:
    figure = _figure(8.0, 4.2)
    left, right = figure.subplots(1, 2)
    image = explanation.image
    assert image is not None
    left.imshow(image, cmap="gray", vmin=0, vmax=1)
    pale = 1 - 0.25 * (1 - (image if image.ndim == 2 else image.mean(axis=2)))
    right.imshow(pale, cmap="gray", vmin=0, vmax=1)
    furthest = float(np.abs(explanation.values).max()) or 1.0
    colours = Normalize(-furthest, furthest)
    right.imshow(
        explanation.values,
        cmap=_COLOURS,
        norm=colours,
        alpha=np.sqrt(np.abs(explanation.values) / furthest),  # weak contributions leave the image visible
    )
    bar = figure.colorbar(ScalarMappable(colours, _COLOURS), ax=right, shrink=0.8)
    bar.ax.tick_params(labelsize=7, colors=_TEXT)
    bar.set_label(f"contribution of a pixel to {_short(explanation.target)}", color=_TEXT, fontsize=8, parse_math=False)
    for axes in (left, right):
        axes.set_axis_off()
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")


def _lighten(axes: Any) -> None:
    axes.set_facecolor("white")
    axes.tick_params(colors=_TEXT, labelsize=8)
    axes.grid(axis="x", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _title(explanation: Explanation) -> str:
    left = f"base {explanation.base:.4g}" + ("" if explanation.fit is None else f", fit {explanation.fit:.2f}")
    return (
        f"{_short(explanation.model)} version {explanation.version}, {explanation.method.upper()}: "
        f"{_short(explanation.target)} = {explanation.prediction:.4g} ({left})"
    )


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
