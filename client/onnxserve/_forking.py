"""What becomes of clients when their process forks.

A child process has the parent's memory, but none of its threads: calls over a parent's connection would hang there, or
end the child, and locks that another thread held stay locked. So a child may not use a client of its parent, which is
found out before any lock is taken.
"""

import ctypes
import os
from collections.abc import Callable

_forks = 0


def forks() -> int:
    """Return how many forks lie between this process and the one that imported the package."""
    return _forks


def check_process(made_after: int) -> None:
    """Check that an object was made in this process: after so many forks().

    Raises:
        RuntimeError: this is a child of the process that made it.
    """
    if made_after != _forks:
        raise RuntimeError(
            "this client was made before the process forked, and its connections stay with the parent: make a client "
            "in the child. If calls may be in flight while the process forks, start children by multiprocessing's "
            "'spawn' or 'forkserver' instead"
        )


def keep(inherited: object) -> None:
    """Have a child process never destroy an object of gRPC that it inherited, not even when it exits.

    Its destructor would take locks that threads of the parent held, or end a call that is the parent's.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def in_children(reset: Callable[[], None]) -> None:
    """Have a function called in each child process, such as one that replaces locks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reset)


def _count() -> None:
    global _forks  # noqa: PLW0603
    _forks += 1


in_children(_count)
