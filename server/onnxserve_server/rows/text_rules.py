"""Operators on texts: they are split into words, filled up to the longest of all rows, and n-grams of them counted."""

from collections.abc import Sequence
from dataclasses import replace

from onnx import TensorProto

from onnxserve_server.rows import notation
from onnxserve_server.rows.axes import Axis, Meet
from onnxserve_server.rows.elementwise_rules import tensors
from onnxserve_server.rows.node import Node
from onnxserve_server.rows.registry import MICROSOFT, rule
from onnxserve_server.rows.values import Known, Value


@rule("StringNormalizer")
def string_normalizer(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Element by element; but stopwords are left out, of one row or another."""
    (value,) = tensors(inputs)
    if node.texts("stopwords") and value.row_axis is not None:
        raise Meet("it leaves out stopwords: how many elements stay depends on all rows together")
    return [value.bare()]


@rule("Tokenizer", domain=MICROSOFT)
def tokenizer(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The words of each text along a new axis, and behind them `pad_value`."""
    (value,) = tensors(inputs)
    return [_words(node, value, node.text("pad_value"))]


@rule("StringSplit")
def string_split(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """The pieces of each text along a new axis, and behind them empty texts; and how many there are."""
    (value,) = tensors(inputs)
    return [_words(node, value, ""), value.bare(dtype=TensorProto.INT64)][: node.outputs]


def _words(node: Node, value: Value, filler: str) -> Value:
    made = value.bare(axes=(*value.known, Axis(node.fresh("words"))))
    return made if value.row_axis is None else replace(made, by_count=True, filler=filler)


@rule("TfIdfVectorizer")
def tf_idf(node: Node, inputs: Sequence[Known | None]) -> list[Value]:
    """Counts of n-grams in each line; what fills it up changes none if it is in none, with skips or without."""
    (value,) = tensors(inputs)
    (counted,) = notation.apply("C -> F" if value.rank == 1 else "nC -> nF", node, inputs)
    made = replace(counted, dtype=TensorProto.FLOAT)
    if value.filler is None or value.filler in node.texts("pool_strings"):
        return [made]
    return [replace(made, by_count=False)]
