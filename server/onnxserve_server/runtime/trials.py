"""What kernels are known to die of: sizes of 0, and integers at their limits. The probe tries a model with each.

Each trial is a request that differs from a sample in a few things, its conditions. Where a trial ends the process, they
become a rule of the model, and no request that fulfils them reaches the kernels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations, permutations
from typing import NamedTuple

import numpy as np

from onnxserve.tensor import STORAGE, Array
from onnxserve_server.spec import Condition, TensorSpec

Trial = tuple[Condition, ...]

FATAL = "a rule of the model forbids these inputs"  # why a run of them is refused

_MAX_ALL_SUBSETS = 5  # so many groups of axes are tried in every combination; of more, each alone and each two
_VALUES = (-1, 0)  # and the smallest of the type: quotients and remainders overflow, lengths and strides make no sense


class Kind(NamedTuple):
    """Trials of one kind.

    Attributes:
        name: what such a trial has, in the plural.
        is_rare: whether kernels seldom die of them; there may be very many.
        trials: the same ones each time.
    """

    name: str
    is_rare: bool
    trials: Iterator[Trial]


def kinds(inputs: Sequence[TensorSpec]) -> Iterator[Kind]:
    """Yield what to try, the likeliest to matter first."""
    groups, smallest = _groups(inputs), _smallest(inputs)
    yield Kind("single axes of size 0", False, iter(groups))
    yield Kind("integers at a limit", False, _limits(smallest))
    yield Kind("all axes of size 0, or all of one position", False, _many_axes(groups))
    yield Kind("two limits in one input", True, _two_limits(smallest))
    yield Kind("two integer inputs at limits", True, _quotients(smallest))
    yield Kind("two axes of size 0", True, map(_joined, combinations(groups, 2)))
    yield Kind("more axes of size 0", True, _larger_subsets(groups))


def changed(feeds: Mapping[str, Array], trial: Trial) -> dict[str, Array]:
    """Return the feeds of a trial: a sample with the sizes and values that its conditions say."""
    made = dict(feeds)
    values: dict[str, list[int]] = {}
    for name, axis, value in trial:
        array = made[name]
        if axis is None:
            values.setdefault(name, []).append(value)
        else:
            made[name] = np.zeros((*array.shape[:axis], value, *array.shape[axis + 1 :]), array.dtype)
    for name, several in values.items():
        of_type = np.array(several, made[name].dtype)
        made[name] = np.asarray(of_type[_mixture(made[name].shape, len(several))])  # of a scalar it is a number
    return made


def is_fatal(feeds: Mapping[str, Array], fatal: Iterable[Trial]) -> bool:
    """Whether these feeds fulfil all conditions of a trial that was fatal."""
    return any(all(condition.holds(feeds[condition.input]) for condition in trial) for trial in fatal)


def _mixture(shape: Sequence[int], values: int) -> Array:
    """Return which of some values each element has: another one than its neighbours and than those half an axis away.

    So a graph that splits an input finds different values at the same place of the parts. Along each axis this is the
    Thue-Morse sequence: the number of ones in the binary digits of the index.
    """
    ones = [np.array([index.bit_count() for index in range(size)], np.intp) for size in shape]
    return np.asarray(sum(np.ix_(*ones), np.intp(0)) % values)


def _groups(inputs: Sequence[TensorSpec]) -> list[Trial]:
    """Return the free axes at 0, those of one name together: no request has them at different sizes."""
    groups: dict[object, list[Condition]] = {}
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                groups.setdefault(size or (spec.name, axis), []).append(Condition(spec.name, axis, 0))
    return [tuple(group) for group in groups.values()]


def _many_axes(groups: Sequence[Trial]) -> Iterator[Trial]:
    """Yield all groups together, then those of the first axes, of the second, ..., which often are one axis unnamed."""
    axes = sorted({condition.axis for group in groups for condition in group if condition.axis is not None})
    by_position = (
        tuple(group for group in groups if any(condition.axis == axis for condition in group)) for axis in axes
    )
    several = dict.fromkeys(subset for subset in (tuple(groups), *by_position) if len(subset) > 1)
    yield from map(_joined, several)


def _larger_subsets(groups: Sequence[Trial]) -> Iterator[Trial]:
    """Yield three groups and more together, but not all: those are tried already."""
    for size in range(3, len(groups)) if len(groups) <= _MAX_ALL_SUBSETS else ():
        yield from map(_joined, combinations(groups, size))


def _joined(groups: Iterable[Trial]) -> Trial:
    return tuple(chain.from_iterable(groups))


def _smallest(inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Return the smallest value of each input of signed integers, by its name."""
    return {spec.name: -(1 << 8 * STORAGE[spec.data_type].itemsize - 1) for spec in inputs if _is_signed(spec)}


def _limits(smallest: Mapping[str, int]) -> Iterator[Trial]:
    for name, value in smallest.items():
        yield from ((Condition(name, None, each),) for each in (value, *_VALUES))


def _two_limits(smallest: Mapping[str, int]) -> Iterator[Trial]:
    for name, value in smallest.items():  # a graph may split an input
        yield from permutations((Condition(name, None, value), Condition(name, None, -1)))


def _quotients(smallest: Mapping[str, int]) -> Iterator[Trial]:
    for dividend, divisor in permutations(smallest, 2):
        yield Condition(dividend, None, smallest[dividend]), Condition(divisor, None, -1)


def _is_signed(spec: TensorSpec) -> bool:
    return spec.data_type in STORAGE and STORAGE[spec.data_type].kind == "i"
