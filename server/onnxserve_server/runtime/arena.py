"""When ONNX Runtime gives memory back: its arena keeps what the largest run has needed, unless it is told to shrink."""

from collections.abc import Iterable
from typing import NamedTuple

import onnxruntime

from onnxserve.tensor import Array
from onnxserve_server.runtime.resources import resident_bytes

_LARGE = 16 << 20  # bytes; what smaller runs leave behind does not matter
_SHARE = 4  # a run of a quarter of the largest one does not need what that one has left
_SHRINK = "memory.enable_memory_arena_shrinkage"
_CPU = "cpu:0"


class Before(NamedTuple):
    """Bytes of a run's inputs, and the resident memory of the process before it, if that counts."""

    inputs: int
    resident: int | None


class Arena:
    """The arena of a session on the CPU. It shrinks when a large run was followed by one that was much smaller.

    So the memory of a single large request is given back, by the second run after it, while a model whose runs are
    always large keeps what the next one needs. How much a run leaves is the bytes of its inputs and outputs, or by how
    much the process grew in it if that is more, for what lies between may be far larger: that is read when the inputs
    are larger than any since it shrank. Runs at the same time may see each other's counts: at worst one of them shrinks
    for nothing.
    """

    def __init__(self) -> None:
        self._largest = 0  # bytes of inputs and outputs of a run since it shrank
        self._last = 0
        self._left = 0  # bytes that the largest run may have left
        self._largest_inputs = 0

    def prepare(self, options: onnxruntime.RunOptions, inputs: Iterable[Array]) -> Before:
        """Have a run shrink the arena at its end, if it is time for that. Returns what note() has to know."""
        size = _bytes(inputs)
        if self._left >= _LARGE and self._last * _SHARE <= self._largest:
            options.add_run_config_entry(_SHRINK, _CPU)
            self._largest = self._left = self._last
            self._largest_inputs = size
        if size <= self._largest_inputs:
            return Before(size, None)
        self._largest_inputs = size
        return Before(size, resident_bytes())

    def note(self, before: Before, outputs: Iterable[Array]) -> None:
        """Take in a run, for which prepare() has returned `before`."""
        self._last = before.inputs + _bytes(outputs)
        self._largest = max(self._largest, self._last)
        grown = 0 if before.resident is None else resident_bytes() - before.resident
        self._left = max(self._left, self._last, grown)


def _bytes(arrays: Iterable[Array]) -> int:
    total = 0
    for array in arrays:
        total += array.nbytes
    return total
