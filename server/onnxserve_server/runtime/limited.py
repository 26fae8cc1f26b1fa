"""Runs of a check, within its limits: of all runs together in seconds, of one run in seconds of CPU time.

So a run that is slow because the machine is busy is not taken for one that takes long.
"""

import threading
import time

from onnxserve_server.runtime.draws import Feeds
from onnxserve_server.runtime.failures import RunFailed
from onnxserve_server.runtime.session import RunHandle, Session

OUT_OF_TIME = "it takes longer than --probe-timeout"
"""What a run fails with that the time for all runs of a model leaves no time for."""

_MIN_LIMIT = 0.05  # seconds of CPU time that any run may take
_POLL = 0.02  # seconds between two looks at a run
_MEASURED = 2  # runs of one row
_TIMES = 20.0  # so often the CPU time of an ordinary run of one row


class TookTooLong(RunFailed):
    """A run was stopped because it took much longer than others of the model, or the check is out of time."""


class LimitedRuns:
    """Runs a model and counts the runs, as a context.

    Args:
        session: the model.
        seconds: time for all runs.
    """

    def __init__(self, session: Session, seconds: float) -> None:
        self._session = session
        self._names = [spec.name for spec in session.outputs]
        self._end = time.monotonic() + seconds
        self.count = 0
        self.row_seconds = 0.0
        self.row_bytes = 0
        self._row_cpu_seconds = 0.0
        self._limited: tuple[float, RunHandle] | None = None
        self._closed = threading.Event()

    @property
    def in_time(self) -> bool:
        """Whether there is time for more runs."""
        return time.monotonic() < self._end

    def run(self, feeds: Feeds) -> Feeds:
        """Return all outputs of one run, however long it takes; raises RunFailed."""
        return self._run(feeds, None)

    def measure(self, feeds: Feeds) -> None:
        """Run one row as run() does, and take its time and its bytes as those of any row."""
        taken: list[float] = []
        cpu: list[float] = []
        while not taken or (len(taken) < _MEASURED and taken[0] < _MIN_LIMIT):  # the first run may take longer
            began, cpu_began = time.monotonic(), time.process_time()
            outputs = self._run(feeds, None)
            taken.append(time.monotonic() - began)
            cpu.append(time.process_time() - cpu_began)
        self.row_seconds, self._row_cpu_seconds = min(taken), min(cpu)
        self.row_bytes = size_of(feeds, outputs)

    def run_briefly(self, feeds: Feeds, rows: int) -> Feeds:
        """Return all outputs of one run of so many rows; raises RunFailed, TookTooLong too."""
        limit = max(_MIN_LIMIT, _TIMES * self._row_cpu_seconds * rows)
        handle, end = RunHandle(), time.process_time() + limit
        self._limited = end, handle
        try:
            return self._run(feeds, handle)
        except RunFailed as error:
            is_late = time.process_time() > end
            raise (TookTooLong(f"it took more than {limit:.1f} s of CPU time") if is_late else error) from None
        finally:
            self._limited = None

    def __enter__(self) -> "LimitedRuns":
        threading.Thread(target=self._stop_long_runs, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def _stop_long_runs(self) -> None:
        """Look at the current run now and then: a timer for each would take longer than the run of a small model."""
        while not self._closed.wait(_POLL):
            if (limited := self._limited) is not None and time.process_time() > limited[0]:
                limited[1].stop()

    def _run(self, feeds: Feeds, handle: RunHandle | None) -> Feeds:
        self.count += 1
        return dict(zip(self._names, self._session.run(feeds, self._names, handle), strict=True))


def size_of(inputs: Feeds, outputs: Feeds) -> int:
    """Return the bytes of a run's inputs and outputs."""
    return sum(array.nbytes for array in (*inputs.values(), *outputs.values()))
