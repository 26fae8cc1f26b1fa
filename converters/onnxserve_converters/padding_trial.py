"""Tries how a model wants its rows padded: rightly padded, it answers at valid places as for the row alone."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxserve.tensor import Array
from onnxserve_converters import roles
from onnxserve_converters.cases import Cases
from onnxserve_converters.drawing import KnowsLimits, Limits
from onnxserve_converters.input_drawer import InputDrawer, Padding, padding_by_name
from onnxserve_converters.inputs import Ranges, batch_axis
from onnxserve_converters.sources.base import Model

_ROWS = 2
_SAME = 1e-3  # of an output's largest magnitude: wrongly padded rows are off by much more
_ADDED = -1e4  # to attention scores, at ignored places

_Feeds = Mapping[str, Array]


def drawer_for(model: Model, sizes: Mapping[str, tuple[int, ...]], ranges: Ranges) -> InputDrawer:
    """Return a drawer of all inputs that something is known of, which asks and tries the model.

    Args:
        model: loaded in its framework.
        sizes, ranges: as for Cases.
    """

    def drawer(limits: Mapping[str, Limits], padding: Padding, ordered: bool) -> InputDrawer:
        return InputDrawer(model.inputs, model.drawer, limits, padding, ordered)

    def cases(drawer: InputDrawer) -> Cases:
        return Cases(model.inputs, sizes, ranges, None, drawer)

    draft = cases(drawer({}, named := padding_by_name(model.inputs), ordered=True))
    limits = _limits(model, [draft.example().feeds, draft.example().feeds])
    padding = _tried(model, cases(drawer(limits, named, ordered=True)), named)
    if not roles.lengths(model.inputs):
        return drawer(limits, padding, ordered=False)
    example = cases(drawer(limits, padding, ordered=True)).example().feeds
    rising = {part.spec.name: _rising(example[part.spec.name]) for part in roles.lengths(model.inputs)}
    return drawer(limits, padding, ordered=_answers(model, {**example, **rising}) is None)


def _limits(model: Model, examples: Sequence[_Feeds]) -> Mapping[str, Limits]:
    try:
        return model.value_limits(examples) if isinstance(model, KnowsLimits) else {}
    except Exception:  # the framework's own, of any class: the model wants other values, as the reference will say
        return {}


def _rising(lengths: Array) -> Array:
    """Return lengths up to the largest of these, the shortest first."""
    longest = int(lengths.max())
    return np.clip(np.arange(longest - len(lengths), longest) + 1, 1, None).astype(lengths.dtype)


def _tried(model: Model, cases: Cases, named: Padding) -> Padding:
    """Return the padding that the model bears out; what names say where its rows are never padded, or it bears none."""
    masks = roles.masks(model.inputs)
    axes = {mask.axis for mask in masks if isinstance(mask.axis, str) and mask.axis != batch_axis(model.inputs)}
    if len(axes) != 1 or not masks:
        return named
    (axis,) = axes
    for padding in _paddings(named, {mask.spec.name: mask.spec.dtype for mask in masks if mask.axis == axis}):
        sides = [side for side in ("end", "start") if _bears(model, cases, axis, padding, side)]
        if sides:
            return replace(padding, side="both" if len(sides) == 2 else sides[0], tried=True)
    return named


def _paddings(named: Padding, dtypes: Mapping[str, str]) -> Iterator[Padding]:
    """Yield what names say, and then all other meanings that masks of these dtypes can have."""
    options = [
        [named.values[name], named.values[name][::-1], *([(0, _ADDED)] if dtype.startswith("float") else [])]
        for name, dtype in dtypes.items()
    ]
    for values in itertools.product(*options):
        yield Padding(values={**named.values, **dict(zip(dtypes, values, strict=True))})


def _bears(model: Model, cases: Cases, axis: str, padding: Padding, side: str) -> bool:
    """Whether rows that are padded on a side are answered as they are alone."""
    small, large = _sizes(cases, axis)
    alone, padded = cases.at(small).feeds, dict(cases.at(large).feeds)
    short, long = small[axis], large[axis]
    places = slice(short) if side == "end" else slice(long - short, long)
    for spec in model.inputs:
        if axis in spec.shape:
            index = [places if each == axis else slice(None) for each in spec.shape]
            padded[spec.name] = padded[spec.name].copy()
            padded[spec.name][tuple(index)] = alone[spec.name]
        else:
            padded[spec.name] = alone[spec.name]
    for name, (valid, ignored) in padding.values.items():
        alone = {**alone, name: np.full_like(alone[name], valid)}
        row = np.full(padded[name].shape[-1], ignored, padded[name].dtype)
        row[places] = valid
        padded[name] = np.broadcast_to(row, padded[name].shape).copy()
    lone, together = _answers(model, alone), _answers(model, padded)
    if lone is None or together is None:
        return False
    return all(_agree(together[name], lone[name], places) for name in lone)


def _sizes(cases: Cases, axis: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return two choices of sizes that differ in one axis."""
    large = {each: max(options) for each, options in cases.sizes.items()}
    if (rows := batch_axis(cases.inputs)) is not None:
        large[rows] = min(_ROWS, large[rows])
    return {**large, axis: min(cases.sizes[axis])}, large


def _answers(model: Model, feeds: _Feeds) -> _Feeds | None:
    try:
        return model.run(feeds)
    except Exception:  # the framework's own, of any class: it does not take these rows
        return None


def _agree(padded: Array, alone: Array, places: slice) -> bool:
    """Whether an output agrees at valid places; the axis with others is the one whose size differs."""
    if padded.ndim != alone.ndim or padded.dtype.kind not in "fiub":
        return False
    index = tuple(
        slice(None) if theirs == own else places for theirs, own in zip(padded.shape, alone.shape, strict=True)
    )
    valid = padded[index]
    expected = alone.astype(np.float64)
    if valid.shape != alone.shape or not np.isfinite(expected).all():
        return False
    bound = _SAME * float(np.abs(expected).max(initial=0.0))
    return bool(np.allclose(valid.astype(np.float64), expected, rtol=0, atol=bound))
