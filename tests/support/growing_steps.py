"""Graphs of some dozens of steps; those of sequences, branches and loops are here."""

import numpy as np
from onnx import helper

from support import growing_shapes, growing_values
from support.growing import BOOL, FLOAT, INT64, Grower
from support.growing_values import number

Node = helper.make_node


def sequence(g):
    g.add("SequenceConstruct", [g.pick().name, g.pick().name])


def pieces(g):
    value = g.pick(FLOAT, 1)
    lengths = [number(g)] if g.rng.random() < 0.5 else []
    g.add("SplitToSequence", [value.name, *lengths], axis=g.axis(value))


def of_sequence(g):
    items = g.pick_sequence().name
    op = g.some("SequenceAt", "SequenceLength", "ConcatFromSequence", "SequenceInsert")
    more = {"SequenceAt": lambda: [number(g)], "SequenceInsert": lambda: [g.pick().name]}.get(op, list)()
    axis = {"axis": int(g.rng.integers(-1, 2)), "new_axis": g.some(0, 1)} if op == "ConcatFromSequence" else {}
    g.add(op, [items, *more], **axis)


def _body(g, state, out):
    """Nodes that make something of a value inside a graph, and what they take from outside."""
    other = g.pick().name
    return g.some(
        ([Node("Add", [state, other], [out])], [other]),
        ([Node("Softmax", [state], [out], axis=g.some(0, -1))], []),
        ([Node("Concat", [state, other], [out], axis=-1)], [other]),
        ([Node("Identity", [other], [out])], [other]),
        ([Node("Mul", [state, other], [f"{out}p"]), Node("Tanh", [f"{out}p"], [out])], [other]),
    )


def branch(g):
    kind = g.some(FLOAT, INT64)
    limit = g.constant(np.float32(0.2) if kind == FLOAT else np.int64(2))
    condition = g.add("Greater", [g.pick(kind, where=lambda v: v.rank == 0).name, limit])[0].name
    value, graphs, used = g.pick().name, [], []
    for part in ("then", "else"):
        nodes, more = _body(g, value, f"{part}{len(g.nodes)}")
        graphs.append(helper.make_graph(nodes, part, [], [helper.make_empty_tensor_value_info(nodes[-1].output[0])]))
        used += more
    g.add("If", [condition], captured=[value, *used], then_branch=graphs[0], else_branch=graphs[1])


def loop(g):
    state = g.pick().name
    nodes, used = _body(g, "state", "next")
    nodes += [
        Node("Identity", ["go"], ["on"]),
        Node("Identity", ["state"], ["seen"]),
        Node("Identity", ["i"], ["turn"]),
    ]
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        nodes, "body", [info("i", INT64, []), info("go", BOOL, []), info("state", FLOAT, None)],
        [info("on", BOOL, []), info("next", FLOAT, None), info("seen", FLOAT, None), info("turn", INT64, [])],
    )  # fmt: skip
    g.add("Loop", [number(g), g.constant(np.bool_(True)), state], 3, captured=used, body=body)


def scan(g):
    state, value = g.pick(g.some(FLOAT, INT64)), g.pick(g.some(FLOAT, INT64), 1)
    nodes = [Node("Add", ["state", "state"], ["next"]), Node("Neg", ["element"], ["seen"])]
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        nodes, "body", [info("state", state.kind, None), info("element", value.kind, None)],
        [info("next", state.kind, None), info("seen", value.kind, None)],
    )  # fmt: skip
    g.add("Scan", [state.name, value.name], 2, body=body, num_scan_inputs=1, scan_input_axes=[g.axis(value)])


STEPS = (
    *growing_values.STEPS,
    *growing_shapes.STEPS,
    sequence,
    pieces,
    of_sequence,
    of_sequence,
    branch,
    loop,
    loop,
    scan,
)


def grown(seed):
    """A graph of some dozens of steps; which kinds of steps it prefers is a matter of chance, too."""
    grower = Grower(seed)
    weights = grower.rng.choice([0.0, 0.3, 1.0, 3.0], len(STEPS))
    weights = weights if weights.any() else np.ones(len(STEPS))
    for _ in range(15 + grower.rng.integers(60)):
        try:
            STEPS[grower.rng.choice(len(STEPS), p=weights / weights.sum())](grower)
        except LookupError:
            continue
    return grower
