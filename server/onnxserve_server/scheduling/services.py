"""The server around a model, as far as every model needs it."""

from dataclasses import dataclass, field

from onnxserve_server.core import Clock
from onnxserve_server.observing import Observer
from onnxserve_server.scheduling.backlog import Backlog
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.scheduling.flushing import Flusher


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """Shared by all models of one engine.

    Attributes:
        clock: tells the time in seconds.
        deadlines: wakes up when a deadline passes.
        backlog: bounds what waits for all models together.
        flusher: dispatches what was submitted.
        observer: is told of each run; None: nobody is.
    """

    clock: Clock
    deadlines: DeadlineWatch
    backlog: Backlog = field(default_factory=Backlog)
    flusher: Flusher = field(default_factory=Flusher)
    observer: Observer | None = None
