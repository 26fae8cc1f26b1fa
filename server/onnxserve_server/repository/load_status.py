"""The state of each version that was to be served, for the status page and the metrics of a running server."""

import threading
import time
from dataclasses import dataclass, replace
from enum import StrEnum


class LoadState(StrEnum):
    """Where a version is on its way into the server and out of it.

    LOADING -> READY -> STOPPED, and from there back to LOADING; LOADING -> FAILED.
    """

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadStatus:
    """One version.

    Attributes:
        error: why it failed; "" otherwise.
        at: when it reached this state, Unix time in seconds.
        seconds: how long probing, loading and warming up took, once they are over.
        memory_bytes: by how much the process grew in that time.
    """

    model: str
    version: str
    state: LoadState
    at: float
    error: str = ""
    seconds: float = 0.0
    memory_bytes: int = 0


class LoadStatuses:
    """The statuses of this server's versions, in the order in which they were first loaded. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[tuple[str, str], LoadStatus] = {}

    def begin(self, model: str, version: str) -> LoadStatus:
        """Note that a load begins."""
        return self._put(LoadStatus(model=model, version=version, state=LoadState.LOADING, at=time.time()))

    def succeed(self, loading: LoadStatus, memory_bytes: int) -> LoadStatus:
        """Note that a load succeeded."""
        return self._end(loading, state=LoadState.READY, memory_bytes=memory_bytes)

    def fail(self, loading: LoadStatus, error: str) -> LoadStatus:
        """Note that a load failed."""
        return self._end(loading, state=LoadState.FAILED, error=error)

    def stop(self, model: str, version: str) -> LoadStatus:
        """Note that a version was stopped, and its memory given back."""
        return self._put(LoadStatus(model=model, version=version, state=LoadState.STOPPED, at=time.time()))

    def all(self) -> list[LoadStatus]:
        """Return the status of every version."""
        with self._lock:
            return list(self._statuses.values())

    def _end(self, loading: LoadStatus, *, state: LoadState, error: str = "", memory_bytes: int = 0) -> LoadStatus:
        now = time.time()
        return self._put(
            replace(loading, state=state, at=now, error=error, seconds=now - loading.at, memory_bytes=memory_bytes)
        )

    def _put(self, status: LoadStatus) -> LoadStatus:
        with self._lock:
            self._statuses[status.model, status.version] = status
        return status
