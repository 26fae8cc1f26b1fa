"""YAML files of settings, read within bounds: of size, of depth, and of what aliases stand for."""

import collections
from pathlib import Path
from typing import Any

import yaml

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.files import read_bounded

_MAX_BYTES = 1 << 20  # the class names of ImageNet-21k take half of that
_MAX_NODES = 100_000
_MAX_DEPTH = 32
_MAX_DIGITS = 1000  # Python reads integers of up to 4,300
_TOO_DEEP = f"nested more than {_MAX_DEPTH} levels deep"
_TOO_MANY = f"more than {_MAX_NODES} values, where an alias counts as all that it stands for"


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings; an empty one has none.

    Raises:
        ConfigurationError: it cannot be read, is not a mapping, is too large or too deep, or has a key twice.
    """
    content = read_bounded(path, _MAX_BYTES)
    try:
        mapping = _parse(content.decode())
    except (ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, no such date, a number of 5,000 digits
        raise ConfigurationError(f"{path}: not valid YAML: {_explain(error)}") from error
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise ConfigurationError(f"{path}: must be a mapping of settings, such as `threads: 2`")
    return mapping


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _Tree().count(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Stops at a depth and a number of nodes, long before the interpreter or the memory would."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """See yaml.composer.Composer."""
        problem = _TOO_DEEP if self._depth == _MAX_DEPTH else _TOO_MANY if self._nodes == _MAX_NODES else ""
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        self._nodes += 1
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Tree:
    """Counts the nodes of a document, an alias as all that it stands for, and looks for keys that come twice."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # by identity of the node

    def count(self, node: yaml.Node, depth: int = 1) -> int:
        """Return how many nodes one stands for; raises yaml.MarkedYAMLError if there are too many."""
        if depth > _MAX_DEPTH:  # an alias within what it stands for has no end
            raise _fault(node, _TOO_DEEP)
        if id(node) not in self._counts:
            if isinstance(node, yaml.ScalarNode):
                _check_scalar(node)
            if isinstance(node, yaml.MappingNode):
                _check_keys(node)
            children = sum(self.count(child, depth + 1) for child in _children(node))
            self._counts[id(node)] = 1 + children
        if self._counts[id(node)] > _MAX_NODES:
            raise _fault(node, _TOO_MANY)
        return self._counts[id(node)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_scalar(node: yaml.ScalarNode) -> None:
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MAX_DIGITS:
        raise _fault(node, f"a number of more than {_MAX_DIGITS} digits")
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        raise _fault(node, "not valid Unicode: it has a lone surrogate") from error


def _check_keys(node: yaml.MappingNode) -> None:
    counts = collections.Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
    for key, _ in reversed(node.value):
        if isinstance(key, yaml.ScalarNode) and counts[key.value] > 1:
            raise _fault(key, f"key {key.value!r} is given twice")


def _fault(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _explain(error: ValueError | yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark, what = error.problem_mark, " ".join(part for part in (error.problem, error.context) if part)
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}"
