"""Which integers a model accepts, found by trying: ids of a table, lengths of an axis, or any."""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from onnxserve.tensor import STORAGE
from onnxserve_server.runtime.draws import Draws

_STEPS = (9, 99, 999, 9_999, 65_535)  # upwards: as a length or a count a large number may take all memory
_MAX_INPUTS = 16  # that are tried one by one

Accepts = Callable[[Mapping[str, int]], bool]


def widen(draws: Draws, fixed: Collection[str], accepts: Accepts) -> None:
    """Widen the bounds of a model's integer inputs as far as it accepts values there.

    Args:
        draws: those whose bounds are set.
        fixed: inputs that keep theirs.
        accepts: whether the model runs, in reasonable time, with one value everywhere in each of these inputs.
    """
    names = [name for name in draws.bounds if name not in fixed]
    largest = {spec.name: _largest(STORAGE[spec.data_type]) for spec in draws.inputs if spec.name in names}
    accepted = 0
    for step in _STEPS if names else ():
        if not accepts({name: min(step, largest[name]) for name in names}):
            break
        accepted = step
    for name in names:
        high = min(accepted or 1, largest[name])
        if accepted < _STEPS[-1] and len(names) <= _MAX_INPUTS:
            high = _highest(name, high, largest[name], accepts)
        is_signed = STORAGE[next(spec.data_type for spec in draws.inputs if spec.name == name)].kind == "i"
        low = -high if is_signed and len(names) <= _MAX_INPUTS and accepts({name: -high}) else 0
        draws.bounds[name] = (low, high)


def _largest(dtype: np.dtype[np.generic]) -> int:
    return int(np.iinfo(dtype).max)  # type: ignore[type-var]


def _highest(name: str, accepted: int, largest: int, accepts: Accepts) -> int:
    """Return the highest value that one input accepts, found by halves once a step is refused."""
    for step in _STEPS:
        if accepted < step <= largest:
            if not accepts({name: step}):
                return _between(name, accepted, step, accepts)
            accepted = step
    return accepted


def _between(name: str, accepted: int, refused: int, accepts: Accepts) -> int:
    while refused - accepted > 1:
        middle = (accepted + refused) // 2
        if accepts({name: middle}):
            accepted = middle
        else:
            refused = middle
    return accepted
