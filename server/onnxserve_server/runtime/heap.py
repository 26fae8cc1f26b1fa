"""The heap of the C library: what is free in it goes back to the system when memory runs short.

glibc keeps what was freed, in arenas that several threads share, between blocks that are still held: after a flood of
calls with large metadata 570 of 860 MiB were free, and counted as the process's all the same.
"""

import contextlib
import ctypes
import functools
import threading
from typing import Any

from onnxserve_server.runtime.resources import memory_left

_INTERVAL = 0.25  # seconds between two looks, of some 20 µs each
_WORTH_IT = 32 << 20  # bytes that are free; fewer are left where they are
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of mallopt()
_LARGE_BLOCK = 256 << 10  # bytes
_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


class HeapWatch:
    """Gives back what is free whenever that is more than half of the memory that is left, from start() to stop().

    From the first time on, large blocks are given back as they are freed.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onnxserve-heap", daemon=True)

    def start(self) -> None:
        """Start to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            if (free := free_bytes()) >= _WORTH_IT and 2 * free > memory_left():
                give_back()


def free_bytes() -> int:
    """Return how many bytes of the heap are free; 0 with another C library, which does not tell."""
    try:
        tell = _libc().mallinfo2
    except AttributeError:
        return 0
    tell.restype = _MallocInfo
    return int(tell().fordblks)


def give_back() -> None:
    """Give back what is free, and from now on large blocks as they are freed."""
    with contextlib.suppress(AttributeError):  # another C library
        libc = _libc()
        libc.mallopt(_MMAP_THRESHOLD, _LARGE_BLOCK)
        libc.malloc_trim(0)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None)
