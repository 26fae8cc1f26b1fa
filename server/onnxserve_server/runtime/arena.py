"""ONNX Runtime's memory on the CPU: arenas that keep what runs have needed, until they are told to give it back.

Each session has its own, or all sessions share one with a limit: then a run that would exceed it fails, and the process
goes on. What the weights take counts, but they are never refused.
"""

from collections.abc import Iterable

import onnxruntime

from onnxserve.tensor import Array
from onnxserve_server.runtime.resources import resident_bytes

_LARGE = 16 << 20  # bytes; what smaller runs leave behind does not matter
_SHARE = 4  # a run of a quarter of the largest one does not need what that one has left
_AS_REQUESTED = 1  # the arena grows by what is asked for: of twice as much each time, half might be unused, and counted
_SILENT = 4

_limit = 0


def bound_runs(nbytes: int) -> None:
    """Have the sessions that this process makes from now on share an arena of so many bytes; 0: each has its own."""
    global _limit  # noqa: PLW0603  # so is ONNX Runtime's environment
    _limit = nbytes
    if nbytes:
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        config = onnxruntime.OrtArenaCfg({"max_mem": nbytes, "arena_extend_strategy": _AS_REQUESTED})
        onnxruntime.create_and_register_allocator(memory, config)


def may_fit(nbytes: int) -> bool:
    """Whether the shared arena could hold so many bytes if others did not need it."""
    return nbytes <= _limit


def shared_arena() -> dict[str, str]:
    """Return the configuration of a session that shares the arena, if there is one."""
    return {"session.use_env_allocators": "1"} if _limit else {}


def emptying() -> onnxruntime.RunOptions:
    """Return options of a run that fails before its first node, after which the arena holds nothing that is unused.

    At the end of a run that succeeds, its own outputs would keep some of it.
    """
    options = onnxruntime.RunOptions()
    options.log_severity_level = _SILENT
    options.terminate = True
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


class Arena:
    """Tells when a session's arena is to be emptied: when a large run was followed by one that was much smaller.

    So the memory of a single large request is given back, by the second run after it, while a model whose runs are
    always large keeps what the next one needs. How much a run leaves is the bytes of its inputs and outputs, or by how
    much the process grew in it if that is more, for what lies between may be far larger: that is read when the inputs
    are larger than any since it was emptied. Runs at the same time may see each other's counts: at worst it is emptied
    for nothing.
    """

    def __init__(self) -> None:
        self._largest = 0  # bytes of inputs and outputs of a run since it was emptied
        self._last = 0
        self._left = 0  # bytes that the largest run may have left
        self._inputs = 0  # bytes of the run in progress
        self._largest_inputs = 0
        self._resident = 0  # bytes of the process before that run; 0: they do not count

    def is_due(self, inputs: Iterable[Array]) -> bool:
        """Return whether to empty it, before a run of these inputs; then not again until there was another large run.

        note() follows after the run.
        """
        size = 0
        for array in inputs:
            size += array.nbytes
        self._inputs = size
        self._resident = 0
        if self._left >= _LARGE and self._last * _SHARE <= self._largest:
            self._largest = self._left = self._last
            self._largest_inputs = 0
            return True
        if size > self._largest_inputs:
            self._largest_inputs = size
            self._resident = resident_bytes()
        return False

    def note(self, outputs: Iterable[Array]) -> None:
        """Take in a run."""
        size = self._inputs
        for array in outputs:
            size += array.nbytes
        self._last = size
        self._largest = max(self._largest, size)
        grown = resident_bytes() - self._resident if self._resident else 0
        self._left = max(self._left, size, grown)
