"""The size of an answer: known before the run where the graph tells, else after it; bounded before it is encoded."""

import math
from collections.abc import Iterable, Sequence

from onnxserve.tensor import STORAGE, STRING, Array
from onnxserve_server.errors import ResponseTooLarge
from onnxserve_server.spec import ModelSpec, TensorSpec

_ROWS = "rows"  # the size of the batch axis
_Axis = int | str | tuple[int, int]  # a size, _ROWS, or that of an axis of an input


class ResponseSize:
    """Checks the outputs of one model against `max_bytes`, the most that one answer may hold."""

    def __init__(self, spec: ModelSpec, max_bytes: float) -> None:
        self._max_bytes = max_bytes
        self._named = {"model": spec.name, "version": spec.version}
        self._known = _known_shapes(spec)
        # The usual outputs, rows of fixed size, are checked by one comparison.
        self._row_bytes = sum(_row_bytes(output, self._known.get(output.name)) for output in spec.outputs)

    def check_before(self, outputs: Sequence[TensorSpec], arrays: Sequence[Array], rows: int) -> None:
        """Check what the inputs of a request, in the model's order, say of its outputs, as far as the graph tells.

        Raises:
            ResponseTooLarge: the answer would hold more than it may.
        """
        if rows * self._row_bytes <= self._max_bytes:
            return
        sizes = []
        for output in outputs:
            if (axes := self._known.get(output.name)) is not None:
                shape = tuple([_size(axis, arrays, rows) for axis in axes])
                sizes.append((output, shape, math.prod(shape) * STORAGE[output.data_type].itemsize))
        if (fault := self._fault(sizes)) is not None:
            raise fault

    def fits(self, arrays: Iterable[Array]) -> bool:
        """Whether all outputs of a run together are no more than one answer may hold."""
        nbytes = 0
        for array in arrays:  # not by nbytes_of(), which costs a call for each: this is done for every run
            nbytes += nbytes_of(array) if array.dtype.hasobject else array.nbytes
        return nbytes <= self._max_bytes

    def fault(self, outputs: Sequence[tuple[TensorSpec, Array]]) -> ResponseTooLarge | None:
        """Return what is wrong with the size of an answer, if anything."""
        return self._fault([(output, array.shape, nbytes_of(array)) for output, array in outputs])

    def check_after(self, outputs: Sequence[tuple[TensorSpec, Array]]) -> None:
        """Check an answer; raises as check_before() does."""
        if (fault := self.fault(outputs)) is not None:
            raise fault

    def _fault(self, sizes: Sequence[tuple[TensorSpec, tuple[int, ...], int]]) -> ResponseTooLarge | None:
        total = sum(nbytes for _, _, nbytes in sizes)
        if total <= self._max_bytes:
            return None
        largest, shape, nbytes = max(sizes, key=lambda size: size[2])
        return ResponseTooLarge(
            f"the answer has {total} bytes, {nbytes} of them in output {largest.name!r} of the shape {list(shape)}; at "
            f"most {self._max_bytes:.0f} may be sent (max_response_bytes): ask for fewer rows or outputs at a time, or "
            f"raise that setting",
            max_response_bytes=f"{self._max_bytes:.0f}",
            response_bytes=str(total),
            output=largest.name,
            **self._named,
        )


def nbytes_of(array: Array) -> int:
    """Return the bytes that an output has in an answer; of strings the characters, which are as many or fewer."""
    return sum([len(text) for text in array.ravel().tolist()]) if array.dtype == object else array.nbytes


def _known_shapes(spec: ModelSpec) -> dict[str, list[_Axis]]:
    """Return the outputs whose sizes the inputs tell: all axes are fixed, of the rows, or named in an input, too."""
    places: dict[str, tuple[int, int]] = {}
    for i, tensor in enumerate(spec.inputs):
        for axis, size in enumerate(tensor.shape):
            if isinstance(size, str) and size:
                places.setdefault(size, (i, axis))
    known = {}
    for output in spec.outputs:
        rows_axis = output.batch_axis if spec.batching.enabled else None
        axes: list[_Axis | None] = [
            size if isinstance(size, int) else _ROWS if axis == rows_axis else places.get(size)
            for axis, size in enumerate(output.shape)
        ]
        if output.data_type != STRING and (found := [axis for axis in axes if axis is not None]) == axes:
            known[output.name] = found
    return known


def _row_bytes(output: TensorSpec, axes: list[_Axis] | None) -> float:
    """Return the bytes of an output for each row; 0 where the graph does not tell, inf where other axes count."""
    if axes is None:
        return 0
    if any(isinstance(axis, tuple) for axis in axes):
        return math.inf
    return math.prod(axis for axis in axes if isinstance(axis, int)) * STORAGE[output.data_type].itemsize


def _size(axis: _Axis, arrays: Sequence[Array], rows: int) -> int:
    if isinstance(axis, tuple):
        return int(arrays[axis[0]].shape[axis[1]])
    return axis if isinstance(axis, int) else rows
