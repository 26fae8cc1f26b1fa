"""Makes rules of the table, and those of convolutions and recurrent layers, which choose among its notations."""

from collections.abc import Sequence
from dataclasses import replace

from onnxserve_server.rows import notation
from onnxserve_server.rows.axes import Axis, Meet, Unclear
from onnxserve_server.rows.elementwise_rules import elementwise
from onnxserve_server.rows.node import Node
from onnxserve_server.rows.registry import Rule, rule
from onnxserve_server.rows.sizes import Number, opaque
from onnxserve_server.rows.table import CONVOLUTIONS, ELEMENTWISE, MEETING, NOTATION, RECURRENT
from onnxserve_server.rows.values import Known, Value


def noted(text: str) -> Rule:
    """Return the rule that a notation means."""
    return lambda node, inputs: notation.apply(text, node, inputs)


def meeting(reason: str) -> Rule:
    """Return the rule of an operator that brings all rows of its inputs together."""

    def meet(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
        if any(isinstance(each, Value) and each.row_axis is not None for each in inputs):
            raise Meet(reason)
        raise Unclear("its sizes depend on what its inputs hold")

    return meet


@rule(*RECURRENT)
def recurrent(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A step along time; the batch is carried."""
    return notation.apply(RECURRENT[node.op][node.number("layout", 0)], node, inputs)


def convolution(text: str) -> Rule:
    """Return the rule of a convolution or pooling: a notation, and the sizes of what it makes."""

    def convolve(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
        if node.outputs > 1 and node.given[1]:
            raise Unclear("its indices count the elements of all rows")
        made, *_ = notation.apply(text, replace_outputs(node), inputs)
        source, weight = inputs[0], inputs[3] if node.op == "QLinearConv" else inputs[1] if len(inputs) > 1 else None
        if not isinstance(source, Value):
            return [made]
        kernel = node.numbers("kernel_shape") or (weight.sizes[2:] if isinstance(weight, Value) else None)
        axes = list(made.known)
        if isinstance(weight, Value) and "O" in text:
            transposed = node.op == "ConvTranspose"
            axes[1] = Axis(weight.sizes[1] * node.number("group", 1) if transposed else weight.sizes[0])
        if kernel is not None and len(kernel) == source.rank - 2 and "nc" in text.lower():
            axes[2:] = [Axis(size) for size in _spatial(node, source.sizes[2:], kernel)]
        return [replace(made, axes=tuple(axes))] * node.outputs

    return convolve


def replace_outputs(node: Node) -> Node:
    """Return the node with its first output alone."""
    return replace(node, outputs=1)


def _spatial(node: Node, sizes: Sequence[Number], kernel: Sequence[Number]) -> list[Number]:
    """Return the sizes that a window of a kernel leaves, axis by axis."""
    count = len(sizes)
    strides, dilations = node.numbers("strides", [1] * count) or [], node.numbers("dilations", [1] * count)
    pads = node.numbers("pads", [0] * 2 * count)
    more = node.numbers("output_padding", [0] * count)
    if node.op == "ConvTranspose" and (node.numbers("output_shape") or node.text("auto_pad", "NOTSET") != "NOTSET"):
        return [node.fresh(f"space{k}") for k in range(count)]
    made: list[Number] = []
    for k, size in enumerate(sizes):
        window = (kernel[k] - 1) * dilations[k] + 1
        if node.op == "ConvTranspose":
            made.append((size - 1) * strides[k] + more[k] + window - pads[k] - pads[k + count])
        else:
            made.append(_windows(node, size, window, strides[k], (pads[k], pads[k + count])))
    return made


def _windows(node: Node, size: Number, window: Number, stride: int, pads: tuple[int, int]) -> Number:
    auto = node.text("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        free = size + stride - 1
    else:
        pads = (0, 0) if auto == "VALID" else pads
        free = size + sum(pads) - window + stride
    if stride == 1:
        return free
    if not isinstance(free, int):
        return opaque("windows", free, stride, *([size, pads] if node.number("ceil_mode", 0) else []), natural=True)
    if node.number("ceil_mode", 0) and isinstance(size, int):
        count = -(-(free - stride) // stride) + 1
        return count - 1 if (count - 1) * stride >= size + pads[0] else count
    return free // stride


for _domain, _operators in ELEMENTWISE.items():
    rule(*_operators, domain=_domain)(elementwise)
for (_domain, _operator), _text in NOTATION.items():
    rule(_operator, domain=_domain)(noted(_text))
for (_domain, _operator), _text in CONVOLUTIONS.items():
    rule(_operator, domain=_domain)(convolution(_text))
for (_domain, _operator), _reason in MEETING.items():
    rule(_operator, domain=_domain)(meeting(_reason))
