"""Dispatch submitted jobs once their burst is over."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol


class Flushable(Protocol):
    """A model that has jobs waiting."""

    def flush(self) -> None:
        """Have them run, by this thread where runs are short."""
        ...


class Flusher:
    """Remembers which models have jobs that nobody has dispatched yet, for all models of an engine. Thread-safe."""

    def __init__(self) -> None:
        self._unflushed: deque[Flushable] = deque()
        self._thread = threading.local()

    def add(self, model: Flushable) -> None:
        """Remember a model until the next flush."""
        self._unflushed.append(model)

    def flush(self) -> None:
        """Run what has been submitted. Models whose runs are short are run here, by the calling thread.

        A job that ends may submit another one and flush, on a thread that is flushing or scattering: then it is flushed
        with what else that thread has ended by the time that it is done.
        """
        self.run_then_flush(_nothing)

    def run_then_flush(self, work: Callable[[], None]) -> None:
        """Do work that ends jobs, then flush."""
        thread = self._thread
        if getattr(thread, "is_flushing", False):
            work()
            return
        thread.is_flushing = True
        try:
            work()
            while self._unflushed:
                try:
                    model = self._unflushed.popleft()
                except IndexError:  # another thread was faster
                    return
                model.flush()
        finally:
            thread.is_flushing = False


def _nothing() -> None:
    pass
