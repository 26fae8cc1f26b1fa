"""The threads that run batches, and when to do without them.

An Executor takes a batch as soon as it is free and runs it. When runs are long, a second thread scatters the result, so
that the next run starts at once: replies cost Python time that a run leaves idle. It does not run far ahead of it: see
unscattered.py. When runs are short, the thread that brings the jobs runs them itself: two hops between threads, and
their struggle for the interpreter lock, cost more than such a run.
"""

import threading
from collections.abc import Callable

from onnxserve_server.scheduling.batch import Slot
from onnxserve_server.scheduling.batcher import Batcher
from onnxserve_server.scheduling.running import BatchRunner
from onnxserve_server.scheduling.unscattered import Unscattered

_LONG_RUN = 0.001  # seconds; from here on a hand-over to the scattering thread costs less than it gains
_MAX_INLINE = 4  # batches that a thread runs in a borrowed slot before the executor takes over


class Executor:
    """Runs batches, one at a time, on a thread of its own. Several may share a batcher and a runner.

    Args:
        runner: runs a batch.
        batcher: forms them.
        run_then_flush: scatters results; see Flusher.run_then_flush.
        name: of the model, for the names of threads.
    """

    def __init__(
        self, runner: BatchRunner, batcher: Batcher, run_then_flush: Callable[[Callable[[], None]], None], name: str
    ) -> None:
        self._run_then_flush = run_then_flush
        self._runner = runner
        self._batcher = batcher
        self._slot = Slot()
        self._finished = Unscattered()
        self._runs = threading.Thread(target=self._take_and_run, name=f"onnxserve-run-{name}", daemon=True)
        self._scatters = threading.Thread(target=self._scatter, name=f"onnxserve-scatter-{name}", daemon=True)

    def start(self) -> None:
        """Start taking batches."""
        self._runs.start()
        self._scatters.start()

    def join(self) -> None:
        """Wait until the batcher, which must have been closed, is empty and every job has ended."""
        self._runs.join()
        self._finished.put(None)
        self._scatters.join()

    def _take_and_run(self) -> None:
        while self._run_next():
            pass

    def _scatter(self) -> None:
        while self._scatter_next():
            pass

    # Each returns whether to go on. Methods, not the bodies of loops: a thread that waits then keeps no batch alive.

    def _run_next(self) -> bool:
        batch = self._batcher.take(self._slot)
        if batch is None:
            return False
        run = self._runner.run(batch)
        if run is not None:
            if run.seconds >= _LONG_RUN:
                self._finished.put(run)
            else:
                self._run_then_flush(run.scatter)
            self._runner.spot_check(run)
        return True

    def _scatter_next(self) -> bool:
        run = self._finished.take()
        if run is None:
            return False
        self._run_then_flush(run.scatter)
        return True


def run_waiting(runner: BatchRunner, batcher: Batcher, max_inline: float) -> None:
    """Have the waiting jobs run: here and now if runs take at most `max_inline` seconds, else by an executor."""
    batch = batcher.dispatch(max_inline)
    done = 0
    while batch is not None:
        run = runner.run(batch)
        if run is not None:
            run.scatter()
            runner.spot_check(run)
        done += 1
        batch = batcher.next(batch, max_inline if done < _MAX_INLINE else 0.0)
