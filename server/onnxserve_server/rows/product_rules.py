"""Products: MatMul and Gemm in all their kinds, Einsum. Each is a sum over products, written as an equation."""

from collections.abc import Sequence

from onnxserve_server.rows.axes import Axes, Axis, Meet, Unclear, check_axes, merge
from onnxserve_server.rows.elementwise_rules import broadcast, tensors
from onnxserve_server.rows.node import Node
from onnxserve_server.rows.registry import MICROSOFT, rule
from onnxserve_server.rows.table import MATRIX_PRODUCTS
from onnxserve_server.rows.values import Known, Value

_SUMMED = "it sums over the axis that counts rows"


def product(one: Axes, other: Axes) -> Axes:
    """Return the axes of a product of matrices, or of vectors, that are broadcast as numpy does.

    Raises:
        Meet: it sums over rows, or combines rows with each other.
    """
    if not one or not other:
        raise Unclear("a scalar cannot be multiplied as a matrix")
    left, right = (Axis(1), *one) if len(one) == 1 else one, (*other, Axis(1)) if len(other) == 1 else other
    if left[-1].rows or right[-2].rows:
        raise Meet(_SUMMED)
    made = broadcast([left[:-2], right[:-2]]) if len(left) > 2 or len(right) > 2 else ()
    made += (left[-2],) * (len(one) > 1) + (right[-1],) * (len(other) > 1)
    check_axes(made)
    return made


def _result(node: Node, values: Sequence[Value], axes: Axes) -> list[Value]:
    return [Value(axes=axes, dtype=values[0].dtype, by_count=any(each.by_count for each in values))] * node.outputs


def _all_shared(values: Sequence[Value]) -> None:
    if any(value.row_axis is not None for value in values):
        raise Meet("an input that is used for all rows holds rows")


def matrix_product(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A product of two of its inputs; the others are the same for all rows."""
    first, second, by_line = MATRIX_PRODUCTS[node.domain, node.op]
    values = tensors(inputs)
    one, other = inputs[first], inputs[second]
    if not (isinstance(one, Value) and isinstance(other, Value)):
        raise Unclear("it lacks an input")
    _all_shared([each for each in values if each is not one and each is not other])
    made = product(one.known, other.known)
    if one.rank > 1 and one.known[-2].rows:
        lines = [inputs[place] for place in by_line if place < len(inputs)]
        if any(isinstance(each, Value) and each.sizes not in ([], [1]) for each in lines):
            raise Meet("it has parameters of their own for each row, by its place")
    return _result(node, values, made)


for _domain, _operator in MATRIX_PRODUCTS:
    rule(_operator, domain=_domain)(matrix_product)


@rule("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A product of matrices that may be transposed."""
    values = tensors(inputs)
    one, other = values[0].known, values[1].known
    if node.number("transBatchA", 0) or node.number("transBatchB", 0):
        raise Unclear("it moves the batch axes of its inputs")
    one = (*one[:-2], one[-1], one[-2]) if node.number("transA", 0) and len(one) > 1 else one
    other = (*other[:-2], other[-1], other[-2]) if node.number("transB", 0) and len(other) > 1 else other
    return _result(node, values, product(one, other))


@rule("Gemm")
@rule("FusedGemm", "GemmFastGelu", domain=MICROSOFT)
def gemm(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """A product of two matrices that may be transposed, and a bias."""
    values = tensors(inputs)
    one, other = values[0].known, values[1].known
    made = product(one[::-1] if node.number("transA", 0) else one, other[::-1] if node.number("transB", 0) else other)
    return _result(node, values, broadcast([made, *(bias.known for bias in values[2:])]))


@rule("Einsum")
def einsum(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """What its equation says."""
    values = tensors(inputs)
    terms, result = _equation(node.text("equation"))
    if len(terms) != len(values):
        raise Unclear("its equation does not fit its inputs")
    bound: dict[str, Axis] = {}
    dots: list[Axes] = []
    for term, value in zip(terms, values, strict=True):
        head, _, tail = term.partition("...")
        wild = value.rank - len(head) - len(tail)
        if wild < 0 or (wild and "..." not in term):
            raise Unclear("its equation does not fit its inputs")
        dots.append(value.known[len(head) : len(head) + wild])
        named = value.known[: len(head)] + value.known[len(head) + wild :]
        if len(set(head + tail)) < len(head + tail) and value.row_axis is not None:
            raise Unclear("it takes a diagonal")
        for sign, axis in zip(head + tail, named, strict=True):
            bound[sign] = merge(bound[sign], axis) if sign in bound else axis
    if any(axis.rows for sign, axis in bound.items() if sign not in result):
        raise Meet(_SUMMED)
    common = broadcast(dots)
    if "..." not in result and any(axis.rows for axis in common):
        raise Meet(_SUMMED)
    head, _, tail = result.partition("...")
    made = (*(bound[sign] for sign in head), *(common if "..." in result else ()), *(bound[sign] for sign in tail))
    check_axes(made)
    return _result(node, values, made)


def _equation(text: str) -> tuple[list[str], str]:
    """Return the terms of an equation and that of its result; without one, the signs that occur once, sorted."""
    left, arrow, right = text.replace(" ", "").partition("->")
    if arrow:
        return left.split(","), right
    signs = left.replace(",", "").replace("...", "")
    once = "".join(sorted(sign for sign in set(signs) if signs.count(sign) == 1))
    return left.split(","), ("..." if "..." in left else "") + once
