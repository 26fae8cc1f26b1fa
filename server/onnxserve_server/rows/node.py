"""What a rule may ask of a node: its operator, its attributes, and the version of its domain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx
from onnx import AttributeProto, GraphProto, TensorProto, numpy_helper

from onnxserve_server.rows.axes import Axis, Unclear
from onnxserve_server.rows.sizes import Number, Size, symbol
from onnxserve_server.rows.values import MAX_CONTENTS, Abstract, Value, contents_of

Subgraph: TypeAlias = Callable[[GraphProto, Sequence[Abstract], str], list[Abstract]]
"""Interprets a graph inside a node, given its inputs and a label of this pass; outer values are found by name."""

_REAL = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node.

    Attributes:
        op: its operator.
        domain: "" for the standard's.
        name: as a message gives it.
        version: of the domain's operators.
        key: tells it from every other node, and from itself in another call of a function or pass of a loop.
        attributes: by name.
        outputs: how many outputs it has.
        given: which of them are used.
        run: interprets a graph inside it.
    """

    op: str
    domain: str
    name: str
    version: int
    key: str
    attributes: Mapping[str, AttributeProto]
    outputs: int
    given: Sequence[bool]
    run: Subgraph

    def number(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        return self.attributes[name].i if name in self.attributes else default

    def numbers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """Return an attribute that is a list of whole numbers."""
        return list(self.attributes[name].ints) if name in self.attributes else list(default)

    def text(self, name: str, default: str = "") -> str:
        """Return an attribute that is a text."""
        return self.attributes[name].s.decode(errors="replace") if name in self.attributes else default

    def texts(self, name: str) -> list[str]:
        """Return an attribute that is a list of texts; none if it is left out."""
        found = self.attributes[name].strings if name in self.attributes else ()
        return [each.decode(errors="replace") for each in found]

    def graph(self, name: str) -> GraphProto:
        """Return an attribute that is a graph."""
        return self.attributes[name].g

    def fresh(self, label: object) -> Size:
        """Return a size of this node of which nothing is known; the same for the same label."""
        return symbol(f"{self.key}:{label}", fresh=True)

    def axis(self, rank: int, default: int, name: str = "axis") -> int:
        """Return an attribute that is an axis, counted from the front.

        Raises:
            Unclear: there is no such axis.
        """
        return place_in(self.number(name, default), rank)


def place_in(axis: Any, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        Unclear: it depends on something, or there is no such axis.
    """
    if not isinstance(axis, int):
        raise Unclear("its axis is computed in the graph")
    if not -rank <= axis < rank:
        raise Unclear(f"its axis {axis} does not exist in {rank} axes")
    return axis % rank if rank else 0


def from_tensor(tensor: TensorProto) -> Value:
    """Return the value of a constant; its elements are read only if they are few and in the file."""
    axes = tuple(Axis(size) for size in tensor.dims)
    few = _elements(tensor.dims) <= MAX_CONTENTS
    if not few or tensor.data_location == TensorProto.EXTERNAL or tensor.data_type == TensorProto.STRING:
        return Value(axes=axes, dtype=tensor.data_type)
    try:
        return contents_of(numpy_helper.to_array(tensor), tensor.data_type)
    except Exception:  # what the tensor's fields do not agree on, and types that numpy lacks
        return Value(axes=axes, dtype=tensor.data_type)


def _elements(dims: Sequence[int]) -> int:
    count = 1
    for size in dims:
        count *= size
    return count


def is_real(dtype: int) -> bool:
    """Whether an element type has fractions."""
    return dtype in _REAL


def sizes_value(sizes: Sequence[Number]) -> Value:
    """Return an int64 vector of sizes."""
    elements = tuple(sizes)
    return Value(
        axes=(Axis(len(elements)),),
        dtype=onnx.TensorProto.INT64,
        contents=elements,
        by_count=any(isinstance(each, Size) and each.by_count for each in elements),
    )
