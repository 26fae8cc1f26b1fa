"""Wait for what nothing tells us of."""

import threading


def until(condition, timeout=10.0):
    """Wait until a condition holds and return what it gave; an AssertionError tells after `timeout` seconds."""
    pause = threading.Event()
    for _ in range(int(timeout / 0.002)):
        if held := condition():
            return held
        pause.wait(0.002)
    raise AssertionError(f"it did not hold within {timeout} s")
