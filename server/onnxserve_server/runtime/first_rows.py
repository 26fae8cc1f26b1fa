"""Find rows that a model runs on."""

from collections.abc import Callable, Iterator, Sequence

from onnxserve.tensor import STRING
from onnxserve_server.runtime.draws import MAX_ELEMENTS, Draws, Hints, Values, is_integer
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.spec import TensorSpec

_FREE_SIZES = (8, 32, 224, 2, 1)  # tried in turn for axes that are free and not the batch axis


def first_that_runs(
    inputs: Sequence[TensorSpec], hints: Hints, run: Callable[[Draws, Values], None]
) -> tuple[Draws, Values]:
    """Return the first rows that `run` accepts, by their sizes and their kind of values: the most telling come first.

    Raises:
        RunFailed: it accepts none of them; the text is that of the last.
    """
    failure = RunFailed(f"one row of its inputs has more than {MAX_ELEMENTS} elements")
    for draws, values in _candidates(inputs, hints):
        try:
            run(draws, values)
        except RunFailed as error:
            failure = error
        else:
            return draws, values
    raise failure


def _candidates(inputs: Sequence[TensorSpec], hints: Hints) -> Iterator[tuple[Draws, Values]]:
    has_free_axes = any(spec.has_free_axes for spec in inputs)
    has_integers = any(is_integer(spec) or spec.data_type == STRING for spec in inputs)
    if hints.rows:
        yield Draws(inputs, 1, hints), Values.SMALL
    for size in _FREE_SIZES if has_free_axes else (1,):
        draws = Draws(inputs, size, Hints(ranges=hints.ranges))
        if draws.elements(1) <= MAX_ELEMENTS:
            yield draws, Values.SMALL
            if has_integers:
                yield draws, Values.ZERO
