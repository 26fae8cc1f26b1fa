"""A model's rules: requests on which a kernel is known to end the process are refused before the run."""

from collections.abc import Iterator, Sequence

from onnxserve.tensor import Array
from onnxserve_server.spec import Condition, InputRule, ModelSpec


class Rules:
    """Checks the arrays of requests for one model against its rules."""

    def __init__(self, spec: ModelSpec) -> None:
        self._rules = spec.rules
        self._positions = {tensor.name: i for i, tensor in enumerate(spec.inputs)}
        self._with_rows = {
            tensor.name for tensor in spec.inputs if spec.batching.enabled and tensor.batch_axis is not None
        }

    def broken(self, arrays: Sequence[Array]) -> Iterator[tuple[int, str, str]]:
        """Yield, for each rule that is broken, the position of an input, its field at fault, and what is wrong."""
        for rule in self._rules:
            if all(self._holds(condition, arrays) for condition in rule.conditions):
                name, axis, _ = rule.conditions[-1]
                yield self._positions[name], "data" if axis is None else "shape", explain(rule)

    def _holds(self, condition: Condition, arrays: Sequence[Array]) -> bool:
        array = arrays[self._positions[condition.input]]
        if condition.axis is None and not array.size and condition.input in self._with_rows:
            return condition.value == 0  # it is run as one row of zeros
        return condition.holds(array)


def explain(rule: InputRule) -> str:
    """Return a sentence that says what the rule forbids, why, and what to do instead."""
    sizes = any(axis is not None for _, axis, _ in rule.conditions)
    cure = "send at least one element along it" if sizes else "send other values"
    return f"{' and '.join(map(str, rule.conditions))}, which the model does not survive: {rule.reason}; {cure}"
