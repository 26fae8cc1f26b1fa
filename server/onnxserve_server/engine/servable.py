"""An entry of the table: one version of something that takes requests and answers each once."""

from typing import Protocol

from onnxserve_server.core import Done, Job, Request
from onnxserve_server.scheduling.batcher import Load
from onnxserve_server.spec import ModelSpec


class Servable(Protocol):
    """One version, taking requests from start() to stop(). Everything else may be called from any thread."""

    @property
    def spec(self) -> ModelSpec:
        """What it takes and gives."""
        ...

    @property
    def run_seconds(self) -> float:
        """How long its executors have run so far, all together."""
        ...

    def submit(self, request: Request, arrived: float, done: Done) -> Job:
        """Admit and queue a request; see Engine.submit."""
        ...

    def flush(self) -> None:
        """Dispatch what was submitted. Called by the flusher, to which submit() has added this object."""
        ...

    def load(self) -> Load:
        """Return what waits and runs now."""
        ...

    def start(self) -> None:
        """Take requests."""
        ...

    def stop(self) -> None:
        """Refuse new requests with MODEL_STOPPED, finish those that wait, end all threads."""
        ...
