"""When ONNX Runtime gives memory back: its arena keeps what the largest run has needed, unless it is told to shrink."""

from collections.abc import Iterable

import onnxruntime

from onnxserve.tensor import Array

_LARGE = 16 << 20  # bytes of inputs and outputs; what smaller runs leave behind does not matter
_SHARE = 4  # a run of a quarter of the largest one does not need what that one has left
_SHRINK = "memory.enable_memory_arena_shrinkage"
_CPU = "cpu:0"


class Arena:
    """The arena of a session on the CPU. It shrinks when a large run was followed by one that was much smaller.

    So the memory of a single large request is given back, by the second run after it, while a model whose runs are
    always large keeps what the next one needs. Runs at the same time may see each other's counts: at worst one of them
    shrinks for nothing.
    """

    def __init__(self) -> None:
        self._largest = 0  # bytes of a run since it shrank
        self._last = 0

    def prepare(self, options: onnxruntime.RunOptions) -> None:
        """Have a run shrink the arena at its end, if it is time for that."""
        if self._largest >= _LARGE and self._last * _SHARE <= self._largest:
            options.add_run_config_entry(_SHRINK, _CPU)
            self._largest = self._last

    def note(self, inputs: Iterable[Array], outputs: Iterable[Array]) -> None:
        """Take in a run."""
        last = 0
        for array in inputs:
            last += array.nbytes
        for array in outputs:
            last += array.nbytes
        self._last = last
        self._largest = max(self._largest, last)
