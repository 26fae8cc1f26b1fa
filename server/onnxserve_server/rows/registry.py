"""The rule of each operator, by domain and name.

A rule takes a node and what is known of its inputs (None for one that is left out), and returns what is known of its
outputs. It raises Meet if rows meet, and Unclear if it cannot tell.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from onnxserve_server.rows.node import Node
from onnxserve_server.rows.values import Abstract, Known

Rule: TypeAlias = Callable[[Node, Sequence[Known | None]], Sequence[Abstract]]

MICROSOFT, ML = "com.microsoft", "ai.onnx.ml"

RULES: dict[tuple[str, str], Rule] = {}
"""By domain ("" for the standard's) and operator."""

RANDOM: set[str] = set()
"""Operators that draw random numbers: a row run again differs from itself."""


def rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for operators of a domain."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[domain, operator] = function
        return function

    return register


def find(domain: str, operator: str) -> Rule | None:
    """Return the rule of an operator; None if it has none."""
    return RULES.get((domain, operator))
