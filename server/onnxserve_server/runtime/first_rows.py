"""Find rows that a model runs on."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from onnxserve.tensor import STRING
from onnxserve_server.runtime.draws import MAX_BYTES, MAX_ELEMENTS, Draws, Feeds, Hints, Values, is_integer
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.spec import TensorSpec

_FREE_SIZES = (8, 32, 224, 2, 1)  # tried in turn for axes that are free and not the batch axis
_POSITIVE_DRAWS = 40  # in all, of integers that may have to fit each other
TOO_LARGE = (
    f"one row of its inputs takes more than {MAX_BYTES >> 20} MiB, or has more than {MAX_ELEMENTS} elements, which is "
    "too much to try"
)


class FirstRow(NamedTuple):
    """A row that a model runs on: `feeds`, by `draws` of these `values`."""

    draws: Draws
    values: Values
    feeds: Feeds


def first_that_runs(inputs: Sequence[TensorSpec], hints: Hints, run: Callable[[Feeds], object]) -> FirstRow:
    """Return the first row that `run` accepts, by its sizes and its kind of values: the most telling come first.

    Raises:
        RunFailed: it accepts none of them; the text is that of the last.
    """
    failure = RunFailed(TOO_LARGE)
    for draws, values in _candidates(inputs, hints):
        feeds = draws.feed(1, values)
        try:
            run(feeds)
        except RunFailed as error:
            failure = error
            continue
        if values is Values.POSITIVE:
            draws.keep_shared(feeds)
        return FirstRow(draws, values, feeds)
    raise failure


def _candidates(inputs: Sequence[TensorSpec], hints: Hints) -> Iterator[tuple[Draws, Values]]:
    if hints.rows:
        yield Draws(inputs, 1, hints), Values.SMALL
    has_free_axes = any(spec.has_free_axes for spec in inputs)
    draws = [Draws(inputs, size, Hints(ranges=hints.ranges)) for size in (_FREE_SIZES if has_free_axes else (1,))]
    small = [each for each in draws if not each.is_too_large(1)]
    has_integers = any(map(is_integer, inputs))
    for each in small:
        yield each, Values.SMALL
        if has_integers or any(spec.data_type == STRING for spec in inputs):
            yield each, Values.ZERO
        if has_integers:
            yield each, Values.ONE
    for _ in range(_POSITIVE_DRAWS // len(draws) if has_integers else 0):
        yield from ((each, Values.POSITIVE) for each in small)
