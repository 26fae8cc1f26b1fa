"""What kernels are known to die of: sizes of 0, and integers at their limits. The probe tries a model with each.

Each trial is a request that differs from a sample in a few things, its conditions. Where a trial ends the process, they
become a rule of the model, and no request that fulfils them reaches the kernels.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice, permutations

import numpy as np
from numpy.typing import NDArray

from onnxserve.tensor import STORAGE, Array
from onnxserve_server.spec import Condition, TensorSpec

Trial = tuple[Condition, ...]

_MAX_TRIALS = 64  # of sizes, and of values
_MAX_ALL_SUBSETS = 5  # so many groups of axes are tried in every combination; of more, each alone and each two
_VALUES = (-1, 0)  # and the smallest of the type: quotients and remainders overflow, lengths and strides make no sense


def trials(inputs: Sequence[TensorSpec]) -> Iterator[Trial]:
    """Yield what to try, the likeliest to matter first, each before those that contain it; the same ones each time."""
    yield from islice(_sizes(inputs), _MAX_TRIALS)
    yield from islice(_values(inputs), _MAX_TRIALS)


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
        mixture = _mixture(made[name].shape, len(several))
        made[name] = np.take(np.array(several, made[name].dtype), mixture, out=np.empty_like(made[name]))
    return made


def _mixture(shape: Sequence[int], values: int) -> NDArray[np.intp]:
    """Return which of some values each element has: another one than its neighbours and than those half an axis away.

    So a graph that splits an input finds different values at the same place of the parts. Along each axis this is the
    Thue-Morse sequence: the number of ones in the binary digits of the index.
    """
    ones = [np.array([index.bit_count() for index in range(size)], np.intp) for size in shape]
    return np.asarray(sum(np.ix_(*ones), np.intp(0)) % values)


def _sizes(inputs: Sequence[TensorSpec]) -> Iterator[Trial]:
    groups = _groups(inputs)
    if len(groups) <= _MAX_ALL_SUBSETS:
        subsets = [subset for size in range(1, len(groups) + 1) for subset in combinations(groups, size)]
    else:
        subsets = [*combinations(groups, 1), tuple(groups), *_by_position(groups), *combinations(groups, 2)]
    for subset in subsets:
        yield tuple(condition for group in subset for condition in group)


def _groups(inputs: Sequence[TensorSpec]) -> list[Trial]:
    """Return the free axes at 0, those of one name together: no request has them at different sizes."""
    groups: dict[object, list[Condition]] = {}
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                groups.setdefault(size or (spec.name, axis), []).append(Condition(spec.name, axis, 0))
    return [tuple(group) for group in groups.values()]


def _by_position(groups: Sequence[Trial]) -> Iterator[tuple[Trial, ...]]:
    """Yield the groups of the first axes, of the second, ..., which are often the same axis, without a name."""
    axes = sorted({condition.axis for group in groups for condition in group if condition.axis is not None})
    for axis in axes:
        yield tuple(group for group in groups if any(condition.axis == axis for condition in group))


def _values(inputs: Sequence[TensorSpec]) -> Iterator[Trial]:
    smallest = {spec.name: -(1 << 8 * STORAGE[spec.data_type].itemsize - 1) for spec in inputs if _is_signed(spec)}
    for name, value in smallest.items():
        yield from ((Condition(name, None, each),) for each in (value, *_VALUES))
    for name, value in smallest.items():  # a graph may split an input
        yield from permutations((Condition(name, None, value), Condition(name, None, -1)))
    for dividend, divisor in permutations(smallest, 2):
        yield Condition(dividend, None, smallest[dividend]), Condition(divisor, None, -1)


def _is_signed(spec: TensorSpec) -> bool:
    return spec.data_type in STORAGE and STORAGE[spec.data_type].kind == "i"
