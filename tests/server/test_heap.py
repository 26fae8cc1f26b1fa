"""The C library's heap: what is free goes back to the system when memory runs short."""

import ctypes

import pytest

from onnxserve_server.runtime import heap
from onnxserve_server.runtime.resources import resident_bytes
from support.waiting import until

MIB = 1 << 20
BLOCKS = 128 * 16  # of 64 KiB: too small to be given back by themselves


@pytest.fixture
def full_of_holes():
    """A heap with 128 MiB that are free below a block that is held; gives the resident bytes."""
    if not heap.free_bytes():
        pytest.skip("another C library than glibc from 2.33 on")
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    blocks = [libc.malloc(64 << 10) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, 64 << 10)
    held = libc.malloc(64 << 10)
    for block in blocks:
        libc.free(ctypes.c_void_p(block))
    yield resident_bytes()
    libc.free(ctypes.c_void_p(held))


def test_what_is_free_is_given_back_when_memory_is_short(full_of_holes, monkeypatch):
    assert heap.free_bytes() >= 128 * MIB
    watch = heap.HeapWatch()
    monkeypatch.setattr(heap, "memory_left", lambda: 2 * heap.free_bytes() - 1)
    watch.start()
    until(lambda: resident_bytes() < full_of_holes - 100 * MIB)
    watch.stop()


def test_what_is_free_stays_while_there_is_enough(full_of_holes, monkeypatch):
    looks = iter(range(3))

    def left():
        if next(looks, None) is None:
            watch._stopped.set()
        return 4 * heap.free_bytes()

    watch = heap.HeapWatch()
    monkeypatch.setattr(heap, "memory_left", left)
    watch.start()
    watch._thread.join(30)
    assert not watch._thread.is_alive()
    assert resident_bytes() > full_of_holes - 100 * MIB
