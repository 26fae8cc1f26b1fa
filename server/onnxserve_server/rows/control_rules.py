"""Operators with graphs inside: If, Loop and Scan. Loops are interpreted until nothing that is known changes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnx import GraphProto, TensorProto

from onnxserve_server.rows.axes import Axis, Meet, Unclear, axes_of
from onnxserve_server.rows.elementwise_rules import tensors
from onnxserve_server.rows.joining import join
from onnxserve_server.rows.node import Node, place_in
from onnxserve_server.rows.registry import rule
from onnxserve_server.rows.sizes import Number
from onnxserve_server.rows.values import Abstract, Known, Poison, Value

_MAX_PASSES = 6


@rule("If")
def if_rule(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """One of two graphs; both, if the analysis cannot tell which."""
    (condition,) = tensors(inputs)
    if condition.row_axis is not None:
        raise Meet("one row decides what is computed for all")
    then, other = node.graph("then_branch"), node.graph("else_branch")
    chosen = condition.contents[0] if condition.contents else None
    if isinstance(chosen, bool):
        return node.run(then if chosen else other, [], "then" if chosen else "else")
    pairs = zip(node.run(then, [], "then"), node.run(other, [], "else"), strict=True)
    made = [join(*pair, _label(node, f"if{k}")) for k, pair in enumerate(pairs)]
    return [tainted(each, by_count=condition.by_count) for each in made]


def tainted(value: Abstract, *, by_count: bool) -> Abstract:
    """Return a value that may also depend on the number of rows."""
    if not by_count or isinstance(value, Poison):
        return value
    if not isinstance(value, Value):
        raise Meet("the number of rows decides what it computes")
    return value.bare(by_count=True)


@rule("Loop")
def loop(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """A body again and again; each pass takes the state that the one before leaves."""
    trips, condition, *states = inputs
    deciding = [each for each in (trips, condition) if isinstance(each, Value)]
    if any(each.row_axis is not None for each in deciding):
        raise Meet("a row decides how often the loop runs for all")
    body = node.graph("body")
    counter = Value(axes=(), dtype=TensorProto.INT64)
    running = Value(axes=(), dtype=TensorProto.BOOL)
    final, outputs = _fixpoint(node, body, [counter, running], _given(states), conditions=1)
    go, scanned = outputs[0], outputs[1 + len(final) :]
    if isinstance(go, Poison):
        return [go] * node.outputs
    if not isinstance(go, Value) or go.row_axis is not None:
        raise Meet("a row decides how often the loop runs for all")
    by_count = any(each.by_count for each in (*deciding, go))
    length = node.fresh("trips")
    made = [*final, *(_stacked(each, 0, length) for each in scanned)]
    return [tainted(each, by_count=by_count) for each in made]


@rule("Scan")
def scan(node: Node, inputs: Sequence[Known | None]) -> list[Abstract]:
    """A body for each slice of some inputs along an axis."""
    if node.version < 9:
        raise Unclear("it is a Scan of opset 8")
    count = node.number("num_scan_inputs", len(inputs))
    given = _given(inputs)
    states, sliced = given[: len(given) - count], tensors(inputs[len(given) - count :])
    axes = node.numbers("scan_input_axes", [0] * count)
    slices, length = [], None
    for value, axis in zip(sliced, axes, strict=True):
        k = place_in(axis, value.rank)
        if value.known[k].rows:
            raise Meet("it goes from row to row")
        length = value.known[k].size
        slices.append(value.bare(axes=value.known[:k] + value.known[k + 1 :]))
    body = node.graph("body")
    final, outputs = _fixpoint(node, body, [], states, conditions=0, after=slices)
    scanned = outputs[len(states) :]
    places = node.numbers("scan_output_axes", [0] * len(scanned))
    made = [_stacked(each, axis, length) for each, axis in zip(scanned, places, strict=True)]
    by_count = any(each.by_count for each in sliced)  # then the number of passes is, too
    return [tainted(each, by_count=by_count) for each in (*final, *made)]


def _given(values: Sequence[Known | None]) -> list[Abstract]:
    if any(each is None for each in values):
        raise Unclear("it lacks an input")
    return [each for each in values if each is not None]


def _fixpoint(
    node: Node,
    body: GraphProto,
    before: Sequence[Abstract],
    states: Sequence[Abstract],
    *,
    conditions: int,
    after: Sequence[Abstract] = (),
) -> tuple[list[Abstract], list[Abstract]]:
    """Return the states after a loop, and the outputs of its body, by what holds of every pass."""
    now = list(states)
    for turn in range(_MAX_PASSES):
        outputs = node.run(body, [*before, *now, *after], f"pass{turn}")
        left = outputs[conditions : conditions + len(now)]
        joined = [
            join(was, each, _label(node, f"state{k}")) for k, (was, each) in enumerate(zip(now, left, strict=True))
        ]
        if joined == now:
            return [_ended(node, was, each, k) for k, (was, each) in enumerate(zip(states, now, strict=True))], outputs
        now = joined
    raise Unclear(f"what is known of its state changes after {_MAX_PASSES} passes")


def _ended(node: Node, first: Abstract, last: Abstract, k: int) -> Abstract:
    """Return a state after the loop: sizes that differ from those before it are those of its last pass."""
    if not (isinstance(first, Value) and isinstance(last, Value)) or last.axes is None:
        return last
    known = first.axes if first.axes is not None and len(first.axes) == len(last.axes) else (None,) * len(last.axes)
    axes = [
        axis if axis == was or axis.rows else Axis(node.fresh(f"end{k}.{j}"))
        for j, (axis, was) in enumerate(zip(last.axes, known, strict=True))
    ]
    return replace(last, axes=tuple(axes))


def _stacked(value: Abstract, axis: int, length: Number | None) -> Abstract:
    """Return what the passes of a loop give one after the other along a new axis."""
    if isinstance(value, Poison):
        return value
    if not isinstance(value, Value) or length is None:
        raise Unclear("it collects sequences")
    if value.axes is None:
        return value
    at = place_in(axis, value.rank + 1)
    return value.bare(axes=(*value.known[:at], *axes_of([length]), *value.known[at:]))


def _label(node: Node, what: str) -> Callable[[int], str]:
    """Name the sizes of a joined value, by axis."""
    return lambda axis: f"{node.key}:{what}.{axis}"
