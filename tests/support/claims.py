"""Whether what the analysis of rows says of each value of a graph holds in the runs that the graph grew by."""

import time
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxserve_server.rows import rules
from onnxserve_server.rows.axes import PURE, Axis
from onnxserve_server.rows.interpreter import Interpreter
from onnxserve_server.rows.sizes import Size, symbol
from onnxserve_server.rows.values import Poison, SequenceValue, Value
from support.growing import ORDERS, RUNS, SIZES

assert rules.RULES  # registered by the import

_CHOOSING = {"TopK": -1, "ArgMax": 0, "ArgMin": 0}
"""Operators that give the indices of values, and the axis along which, where they do not say."""


@dataclass(frozen=True)
class Claim:
    """What is said of one value: independent, shared, by count, meet or unknown; and what is wrong about it."""

    kind: str
    wrong: str = ""


def claims(grower):
    """What is said of each value that a node of a grown graph makes, by name."""
    given = {name: _given(name, kind, shape, grower.axes[name]) for name, kind, shape in grower.inputs}
    said = Interpreter(grower.model(), time.monotonic() + 60).run(given)
    known = [_sizes_of(grower, order, sizes) for order, sizes in RUNS]
    found = {v.name: _claim(said[v.name], v, known) for v in grower.values if v.name in said}
    for name in _of_ties(grower, said, {name for name, claim in found.items() if claim.wrong}, known):
        found[name] = Claim(found[name].kind)
    return found


def _of_ties(grower, said, wrong, known):
    """Wrong claims that rounding explains: which of values that are equal was chosen, and what follows from it."""
    values, ties = {value.name: value for value in grower.values}, set()
    for node in grower.nodes:
        follows = bool(ties.intersection(node.input))
        for name in wrong.intersection(node.output):
            if follows or (node.op_type in _CHOOSING and not _of_rows(said[name], _chosen(node, values, name), known)):
                ties.add(name)
        if follows:
            ties.update(node.output)
    return ties & wrong


def _chosen(node, values, name):
    """The values that the indices of a choice point to, in each run."""
    attributes = {each.name: each.i for each in node.attribute}
    axis = attributes.get("axis", _CHOOSING[node.op_type])
    lacks_axis = not attributes.get("keepdims", 1)
    runs = []
    for array, index in zip(values[node.input[0]].runs, values[name].runs, strict=True):
        got = np.take_along_axis(array, np.expand_dims(index, axis) if lacks_axis else index, axis)
        runs.append(got.squeeze(axis) if lacks_axis else got)
    return runs


def _given(name, kind, shape, row):
    axes = [Axis(size if isinstance(size, int) else symbol(f"{name}[{k}]")) for k, size in enumerate(shape)]
    if row is not None:
        axes[row] = PURE
    return Value(axes=tuple(axes), dtype=kind)


def _sizes_of(grower, order, sizes):
    """The numbers that symbols stand for in a run: those of inputs, and later those that values show."""
    free = {
        f"{name}[{k}]": SIZES[sizes][size]
        for name, _, shape in grower.inputs
        for k, size in enumerate(shape)
        if size in SIZES[sizes]
    }
    return {"rows": len(order)} | free


def _claim(said, value, known):
    if isinstance(said, Poison):
        return Claim(said.rows.value)
    if isinstance(said, SequenceValue) or value.sequence:
        return Claim("sequence", _about_sequence(said, value.runs, known))
    kind = "by count" if said.by_count else "shared" if said.row_axis is None else "independent"
    return Claim(kind, _about(said, value.runs, known))


def _about_sequence(said, runs, known):
    if not isinstance(said, SequenceValue):
        return "" if said.axes is None else "it is a tensor"
    if said.items is None:
        return ""
    if any(len(run) != len(said.items) for run in runs):
        return f"it has {len(said.items)} items"
    return next(filter(None, (_about(item, [run[k] for run in runs], known) for k, item in enumerate(said.items))), "")


def _about(said, runs, known):
    """What is wrong of what is said of a tensor; "" if nothing is."""
    if said.axes is not None:
        for array, sizes in zip(runs, known, strict=True):
            if wrong := _about_run(said, array, sizes):
                return wrong
    return "" if said.by_count else _of_rows(said, runs, known)


def _of_rows(said, runs, known):
    """What is wrong of how the rows of a tensor are said to depend on each other."""
    if said.row_axis is None:
        return "" if _agree([[run] for run in runs], shared=True) else "it is the same in all runs"
    rows = [_rows(said, array, sizes) for array, sizes in zip(runs, known, strict=True)]
    return "" if None in rows or _agree(rows) else "its rows are independent"


def _about_run(said, array, known):
    if array.ndim != len(said.axes):
        return f"it has {len(said.axes)} axes"
    numbers = list(zip(said.sizes, array.shape, strict=True))
    if said.contents is not None:
        numbers += zip(said.contents, array.reshape(-1).tolist(), strict=True)
    for number, got in numbers:
        if not _fits(number, got, known):
            return f"{number} is not {got}"
    below = _number(said.below, known)
    if below is not None and not (array.min() >= 0 and array.max() < below):
        return f"it is below {below}"
    return "" if said.row_axis is None else _about_places(said, array, known)


def _about_places(said, array, known):
    stride, below = (
        _number(size, known) for size in ((said.place.stride, said.place.below) if said.place else (None, 0))
    )
    for number, row in enumerate(_rows(said, array, known) or ()):
        if stride and below is not None and below <= stride and (row // stride != number).any():
            return "its elements tell their row"
        if said.leads and (row[..., 0] != number).any():
            return "its first elements are numbers of rows"
    return ""


def _number(size, known):
    """The number that a formula is in a run; None if a symbol of it is not known."""
    if not isinstance(size, Size):
        return size
    total = 0
    for symbols, factor in size.terms:
        if any(each.name not in known for each in symbols):
            return None
        total += factor * prod(known[each.name] for each in symbols)
    return total


def _fits(size, got, known):
    """Whether a formula can be a number; a symbol that is not known yet becomes so."""
    number = _number(size, known)
    if number is not None:
        return number == got or bool(np.isclose(number, got, rtol=1e-5))
    ((symbols, factor), *more) = size.terms
    if more or len(symbols) != 1 or factor != 1:
        return True
    known[symbols[0].name] = got
    return got >= 0 or not symbols[0].natural


def _rows(said, array, known):
    """The parts of an array by rows; None if it cannot be seen where they are."""
    k, axis = said.row_axis, said.axes[said.row_axis]
    outer, inner, count = _number(axis.outer, known), _number(axis.inner, known), known["rows"]
    if None in (outer, inner):
        return None
    parts = array.reshape(*array.shape[:k], outer, count, inner, *array.shape[k + 1 :])
    return [np.take(parts, row, k + 1) for row in range(count)]


def _agree(rows, *, shared=False):
    """Whether each row is what it is alone, in all runs of the same sizes; or all runs are the same."""
    for run, (order, sizes) in enumerate(RUNS):
        first = sizes * len(ORDERS)
        for place, row in enumerate(order[:1] if shared else order):
            if not _same(rows[run][place], rows[first + (0 if shared else row)][0]):
                return False
    return True


def _same(one, other):
    if one.shape != other.shape or one.dtype.kind != "f":
        return np.array_equal(one, other)
    return np.allclose(one, other, rtol=2e-3, atol=2e-3 * max(1e-3, float(np.abs(other).max(initial=0))))
