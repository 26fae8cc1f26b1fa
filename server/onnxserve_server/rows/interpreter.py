"""Walks a graph, its inner graphs and its functions, and applies the rule of each node."""

import time
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxserve_server.rows import registry
from onnxserve_server.rows.axes import Axis, Meet, Unclear
from onnxserve_server.rows.joining import join
from onnxserve_server.rows.node import Node, from_tensor
from onnxserve_server.rows.sizes import by_count
from onnxserve_server.rows.values import Abstract, Known, Poison, Value
from onnxserve_server.spec import Rows

_MAX_NODES = 100_000
_MAX_DEPTH = 24
_OF_SHAPE = {("", "Shape"), ("", "Size")}
_DETERMINISTIC = ("", registry.ML, registry.MICROSOFT)

Scope = MutableMapping[str, Abstract]


class OverBudget(Exception):
    """The analysis would take longer than it may."""


@dataclass(frozen=True)
class _Context:
    """What surrounds the nodes of a graph: versions by domain, attributes of the function's call, keys, depth."""

    versions: dict[str, int]
    call: Mapping[str, AttributeProto]
    key: str = ""
    depth: int = 0

    def inside(self, key: str) -> "_Context":
        if self.depth >= _MAX_DEPTH:
            raise OverBudget(f"graphs and functions are nested deeper than {_MAX_DEPTH}")
        return replace(self, key=f"{self.key}{key}/", depth=self.depth + 1)


class Interpreter:
    """Interprets one model."""

    def __init__(self, model: ModelProto, deadline: float) -> None:
        """Take a model, and the time.monotonic() at which OverBudget is raised."""
        self._model, self._deadline, self._nodes = model, deadline, 0
        self._functions = {(_standard(each.domain), each.name, each.overload): each for each in model.functions}

    def run(self, inputs: Mapping[str, Abstract]) -> dict[str, Abstract]:
        """Return what is known of each output of the model's graph, by name.

        Raises:
            OverBudget: it would take too long.
        """
        graph = self._model.graph
        context = _Context(_versions(self._model.opset_import), {})
        values = self._graph(graph, inputs, {}, context)
        return {output.name: value for output, value in zip(graph.output, values, strict=True)}

    def _graph(
        self, graph: GraphProto, inputs: Mapping[str, Abstract], outer: Scope, context: _Context
    ) -> list[Abstract]:
        """Interpret a graph: its initializers hide values of graphs around it, and its inputs hide its initializers."""
        scope: Scope = ChainMap({}, outer)
        scope.update((tensor.name, from_tensor(tensor)) for tensor in graph.initializer)
        scope.update((each.values.name, Value(axes=tuple(map(Axis, each.dims)))) for each in graph.sparse_initializer)
        scope.update(inputs)
        self._walk(graph.node, scope, context)
        return [_lookup(scope, output.name) for output in graph.output]

    def _walk(self, nodes: Iterable[NodeProto], scope: Scope, context: _Context) -> None:
        for node in nodes:
            self._nodes += 1
            if self._nodes > _MAX_NODES:
                raise OverBudget(f"it has more than {_MAX_NODES} nodes, those of functions and loops counted each time")
            if time.monotonic() > self._deadline:
                raise OverBudget("the analysis reached its time limit")
            inputs = [_lookup(scope, name) if name else None for name in node.input]
            values = self._apply(node, inputs, scope, context)
            scope.update((name, value) for name, value in zip(node.output, values, strict=False) if name)

    def _apply(
        self, proto: NodeProto, inputs: Sequence[Abstract | None], scope: Scope, context: _Context
    ) -> Sequence[Abstract]:
        domain, name = _standard(proto.domain), _name(proto)
        attributes = _attributes(proto, context.call)
        function = self._functions.get((domain, proto.op_type, proto.overload))
        if function is not None and domain not in _DETERMINISTIC:
            return self._call(function, inputs, attributes, context.inside(_key(proto)))
        if (domain, proto.op_type) in _OF_SHAPE:
            inputs = [each.value or each if isinstance(each, Poison) else each for each in inputs]
        poison = worst(inputs)
        if poison is not None:
            return [poison] * len(proto.output)
        known = [each for each in inputs if not isinstance(each, Poison)]

        def run(graph: GraphProto, given: Sequence[Abstract], label: str) -> list[Abstract]:
            named = {value.name: each for value, each in zip(graph.input, given, strict=True)}
            return self._graph(graph, named, scope, context.inside(f"{_key(proto)}:{label}"))

        node = Node(
            op=proto.op_type,
            domain=domain,
            name=name,
            version=context.versions.get(domain, 1),
            key=context.key + _key(proto),
            attributes=attributes,
            outputs=len(proto.output),
            given=[bool(output) for output in proto.output],
            run=run,
        )
        values = _judged(node, known)
        if function is None:
            return values
        called = self._call(function, inputs, attributes, context.inside(_key(proto)))
        return [_either(node, k, *pair) for k, pair in enumerate(zip(values, called, strict=False))]

    def _call(
        self,
        function: FunctionProto,
        inputs: Sequence[Abstract | None],
        attributes: Mapping[str, AttributeProto],
        context: _Context,
    ) -> list[Abstract]:
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        scope: Scope = {name: each for name, each in zip(function.input, inputs, strict=False) if each is not None}
        versions = _versions(function.opset_import) | context.versions  # as ONNX Runtime does: the model's come first
        inner = replace(context, versions=versions, call={**defaults, **attributes})
        self._walk(function.node, scope, inner)
        return [_lookup(scope, name) for name in function.output]


def worst(values: Iterable[Abstract | None]) -> Poison | None:
    """Return the poison of what is made of values; one of rows that meet before one of which nothing is known."""
    poisons = [replace(each, value=None) for each in values if isinstance(each, Poison)]
    return next((each for each in poisons if each.rows is Rows.MEET), poisons[0] if poisons else None)


def _judged(node: Node, inputs: Sequence[Known | None]) -> Sequence[Abstract]:
    """Return what the node's rule says, or what holds without one."""
    try:
        rule = registry.find(node.domain, node.op)
        if rule is None:
            raise Unclear("the analysis does not know this operator")
        return [_checked(_typed(each, node), node) for each in rule(node, inputs)]
    except Meet as meet:
        finding = Poison(Rows.MEET, f"{_operator(node)}: {meet}", node.name)
    except Unclear as unclear:
        filled = any(isinstance(each, Value) and each.filler is not None for each in inputs)
        finding = Poison(Rows.MEET if filled else Rows.UNKNOWN, f"{_operator(node)}: {unclear}", node.name)
    except OverBudget:
        raise
    except Exception as error:  # a graph that violates the standard, in whatever way
        finding = Poison(Rows.UNKNOWN, f"{_operator(node)}: the analysis failed: {error!r}"[:300], node.name)
    without_rows = [each for each in inputs if isinstance(each, Value) and each.row_axis is None]
    has_graphs = any(each.type == AttributeProto.GRAPH for each in node.attributes.values())  # they may use rows
    if (
        node.domain in _DETERMINISTIC
        and not has_graphs
        and len(without_rows) == sum(each is not None for each in inputs) > 0
    ):
        return [Value(axes=None, by_count=any(each.by_count for each in without_rows))] * node.outputs
    return [finding] * node.outputs


def _typed(value: Abstract, node: Node) -> Abstract:
    """Return a value without its type where that need not be the one of the first input, which most rules give it."""
    return replace(value, dtype=TensorProto.UNDEFINED) if isinstance(value, Value) and node.domain else value


def _checked(value: Abstract, node: Node) -> Abstract:
    """Return a value; poison if its rows depend on their number, unless another operator could free it of that."""
    if isinstance(value, Value) and not _is_sound(value):
        reason = f"{_operator(node)}: the size of an axis depends on the number of rows"
        return Poison(Rows.MEET, reason, node.name)
    if isinstance(value, Value) and value.row_axis is not None and value.by_count and not value.is_resolvable:
        reason = f"{_operator(node)}: its values depend on how many rows there are, on a row's place or on the longest"
        return Poison(Rows.MEET, reason, node.name, value)
    if isinstance(value, Poison) and not value.node:
        return Poison(value.rows, f"{_operator(node)}: {value.reason}", node.name)
    return replace(value, value=None) if isinstance(value, Poison) else value


def _is_sound(value: Value) -> bool:
    """Whether at most one axis counts rows, and the size of no other depends on them."""
    axes = value.axes or ()
    return sum(axis.rows for axis in axes) <= 1 and not by_count(*(size for a in axes for size in (a.outer, a.inner)))


def _either(node: Node, k: int, built_in: Abstract, called: Abstract) -> Abstract:
    """Return what holds of output k, of ONNX Runtime's own operator or a function of its name: it may run either."""
    return join(built_in, called, lambda axis: f"{node.key}:either{k}.{axis}")


def _attributes(node: NodeProto, call: Mapping[str, AttributeProto]) -> dict[str, AttributeProto]:
    """Return a node's attributes; those that refer to the function's call as given there."""
    found = {}
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            found[attribute.name] = attribute
        elif attribute.ref_attr_name in call:
            found[attribute.name] = call[attribute.ref_attr_name]
    return found


def _lookup(scope: Mapping[str, Abstract], name: str) -> Abstract:
    return scope.get(name) or Poison(Rows.UNKNOWN, f"value {name!r} is used but never computed", "")


def _versions(imports: Iterable[object]) -> dict[str, int]:
    return {_standard(each.domain): each.version for each in imports}  # type: ignore[attr-defined]


def _standard(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _key(node: NodeProto) -> str:
    return next((name for name in node.output if name), node.name)


def _name(node: NodeProto) -> str:
    return node.name or _key(node)


def _operator(node: Node) -> str:
    return f"{node.domain}.{node.op}" if node.domain else node.op
