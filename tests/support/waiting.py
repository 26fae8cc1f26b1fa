"""Wait for what nothing tells us of."""

import threading
import time


def until(condition, timeout=10.0, every=0.002):
    """Wait until a condition holds and return what it gave; an AssertionError tells after `timeout` seconds.

    `every` is the time between two looks; a look that costs more than nothing wants a longer one.
    """
    pause, end = threading.Event(), time.monotonic() + timeout
    while time.monotonic() < end:
        if held := condition():
            return held
        pause.wait(every)
    raise AssertionError(f"it did not hold within {timeout} s")
