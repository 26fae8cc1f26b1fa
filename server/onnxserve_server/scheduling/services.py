"""The server around a model, as far as every model needs it."""

import math
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
        max_response_bytes: the most that the outputs of one answer may hold.
        default_timeout: seconds that a request has whose caller names no deadline; inf: as long as it takes.
    """

    clock: Clock
    deadlines: DeadlineWatch
    backlog: Backlog = field(default_factory=Backlog)
    flusher: Flusher = field(default_factory=Flusher)
    observer: Observer | None = None
    max_response_bytes: float = math.inf
    default_timeout: float = math.inf
