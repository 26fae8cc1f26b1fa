"""The seam between an edge and the engine: every call that an edge makes.

An object with these methods can stand in for the engine: in a test, or for a front end in another process.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from onnxserve.tensor import Array
from onnxserve_server.core import Clock, Done, Job, Request, Step
from onnxserve_server.engine.sequence import Hold, StepDone
from onnxserve_server.errors import ServeError
from onnxserve_server.spec import ModelSpec, TensorSpec


class Cancellable(Protocol):
    """A request that was submitted: a job, or a step of a sequence."""

    def withdraw(self, error: ServeError) -> None:
        """End it with `error`, unless it has ended."""
        ...


class Handoff(NamedTuple):
    """The state of a sequence that moves to another server, with the model that made it."""

    sequence: str
    spec: ModelSpec
    state: Sequence[tuple[TensorSpec, Array]]


class Sequences(Protocol):
    """The sequences of one stream; see stream_sequences.StreamSequences."""

    @property
    def must_stay(self) -> bool:
        """Whether a sequence is live that would be lost if the stream ended."""
        ...

    def submit(self, request: Request, step: Step, done: StepDone, hold: Hold) -> Cancellable:
        """Take a step of a sequence, or a request of several steps."""
        ...

    def end(self, name: str) -> None:
        """End a sequence whose last step was refused."""
        ...

    def handoffs(self) -> list[Handoff]:
        """Return the state of each live sequence that is to be handed over."""
        ...

    def close(self) -> None:
        """Free all sequences."""
        ...


class Inference(Protocol):
    """The engine; see engine.Engine. Everything may be called from any thread.

    Attributes:
        clock: tells the time in seconds; deadlines of requests are times of it.
        flush: starts what was submitted; to be called after the last request of a burst.
        default_timeout: seconds that a request has whose caller names no deadline; inf: as long as it takes.
    """

    clock: Clock
    flush: Callable[[], None]
    default_timeout: float

    def submit(self, request: Request, done: Done) -> Job:
        """Admit and queue a request; `done` is called once, from any thread. Raises ServeError."""
        ...

    def sequences(self) -> Sequences:
        """Return an empty set of sequences, for one stream."""
        ...

    def spec(self, name: str, version: str = "") -> ModelSpec:
        """Return what is known of a version that serves; raises ServeError."""
        ...
