"""What became of each model that was to be loaded, for those who ask a running server."""

import threading
import time
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """One version of a model on its way into the server.

    Attributes:
        error: why it failed; "" otherwise.
        at: Unix time, in seconds, of when it reached this state.
        seconds: how long probing, loading and warming up took, once they are over.
        memory_bytes: by how much the process grew meanwhile.
    """

    model: str
    version: str
    state: Literal["loading", "ready", "failed"]
    at: float
    error: str = ""
    seconds: float = 0.0
    memory_bytes: int = 0


class Loads:
    """The loads of this server, in their order. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads: dict[tuple[str, str], Load] = {}

    def begin(self, model: str, version: str) -> None:
        """Note that a load begins."""
        self._put(Load(model=model, version=version, state="loading", at=time.time()))

    def succeed(self, model: str, version: str, memory_bytes: int) -> Load:
        """Note that it is over, and return what is known of it."""
        return self._end(model, version, "ready", memory_bytes=memory_bytes)

    def fail(self, model: str, version: str, error: str) -> Load:
        """Note that it failed, and return what is known of it."""
        return self._end(model, version, "failed", error=error)

    def all(self) -> list[Load]:
        """Return them all."""
        with self._lock:
            return list(self._loads.values())

    def _end(
        self,
        model: str,
        version: str,
        state: Literal["ready", "failed"],
        *,
        error: str = "",
        memory_bytes: int = 0,
    ) -> Load:
        began, now = self._loads[model, version], time.time()
        load = replace(began, state=state, at=now, error=error, seconds=now - began.at, memory_bytes=memory_bytes)
        self._put(load)
        return load

    def _put(self, load: Load) -> None:
        with self._lock:
            self._loads[load.model, load.version] = load
