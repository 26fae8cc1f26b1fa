"""The notation of the table of rules: which axes of the inputs an operator carries to its outputs, and which it mixes.

    "nC*, _, _ -> nO~"      a term for each input and each output, a sign for each axis

    lower case   carried: an element of the output depends on elements at the same place along it alone
    upper case   mixed: an element may depend on all elements along it; in an output, as long as in the input
    @            any number of carried axes
    *            any number of mixed axes; in an output, the same sizes; ~ as many of unknown size; # as many of size 1
    digits       in an output, an axis of that size
    _            (a whole term) an input that must be the same for all rows
    ...          (a whole term) any number of further inputs like the one before

So rows may lie along a carried axis that every output has. Along any other they meet.
"""

from collections.abc import Sequence
from functools import cache

from onnxserve_server.rows.axes import Axes, Axis, Meet, Unclear, check_axes, merge
from onnxserve_server.rows.node import Node
from onnxserve_server.rows.values import Known, Value

_RUNS = "@*"


def apply(notation: str, node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Return what a rule in this notation says of a node's outputs.

    Raises:
        Meet: rows lie along an axis that the operator mixes.
        Unclear: the inputs do not fit the notation.
    """
    terms, results = _parsed(notation)
    if len(terms) > 1 and terms[-1] == "...":
        terms = terms[:-1] + (terms[-2],) * max(0, len(inputs) - len(terms) + 1)
    if len(inputs) > len(terms) or node.outputs > len(results):
        raise Unclear("it has more inputs or outputs than the analysis knows of")
    bound: dict[str, Axes] = {}
    for k, (term, value) in enumerate(zip(terms, inputs, strict=False)):
        if value is not None:
            _bind(term, k, _tensor(value), bound)
    by_count = any(isinstance(each, Value) and each.by_count for each in inputs)
    first = next((each.dtype for each in inputs if isinstance(each, Value)), 0)
    return [Value(axes=_built(term, node, bound), dtype=first, by_count=by_count) for term in results[: node.outputs]]


@cache
def _parsed(notation: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    left, _, right = notation.partition("->")
    return tuple(term.strip() for term in left.split(",")), tuple(term.strip() for term in right.split(","))


def _tensor(value: Known) -> Value:
    if not isinstance(value, Value):
        raise Unclear("an input is a sequence")
    return value


def _bind(term: str, k: int, value: Value, bound: dict[str, Axes]) -> None:
    """Note which axes of an input each sign of its term stands for."""
    if term == "_":
        if value.row_axis is not None:
            raise Meet(f"its input {k} holds rows, and is used for all rows")
        return
    axes, at = value.known, 0
    wild = len(axes) - sum(sign not in _RUNS for sign in term)
    if wild < 0 or (wild and not set(_RUNS) & set(term)):
        raise Unclear(f"its input {k} has {len(axes)} axes")
    for sign in term:
        found = axes[at : at + (wild if sign in _RUNS else 1)]
        at += len(found)
        if not (sign.islower() or sign == "@") and any(axis.rows for axis in found):
            raise Meet(f"it mixes the elements along an axis of its input {k} that counts rows")
        bound[sign] = _merged(bound[sign], found, carried=sign.islower() or sign == "@") if sign in bound else found


def _merged(have: Axes, found: Axes, *, carried: bool) -> Axes:
    if not carried:
        return have
    if len(have) != len(found):
        raise Unclear("its inputs have different numbers of axes")
    return tuple(merge(one, other) for one, other in zip(have, found, strict=True))


def _built(term: str, node: Node, bound: dict[str, Axes]) -> Axes:
    """Return the axes of an output.

    Raises:
        Meet: it lacks the axis that counts rows.
    """
    if any(axis.rows for sign, axes in bound.items() if sign not in term for axis in axes):
        raise Meet("it mixes the elements along an axis that counts rows")
    made: list[Axis] = []
    for k, sign in enumerate(term):
        if sign in bound:
            made += bound[sign]
        elif sign.isdigit():
            made.append(Axis(int(sign)))
        elif sign in "~#":
            count = len(bound.get("*", ()))
            made += [Axis(1) if sign == "#" else Axis(node.fresh(f"{term}.{k}.{j}")) for j in range(count)]
        else:
            made.append(Axis(node.fresh(f"{term}.{sign}")))
    check_axes(made)
    return tuple(made)
