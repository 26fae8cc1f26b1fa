"""The engine: requests go in, each calls back once. It knows no transport."""

import math

from onnxserve_server.core import Done, Job, Request
from onnxserve_server.engine.stream_sequences import StreamSequences
from onnxserve_server.engine.table import Table
from onnxserve_server.errors import Draining, ModelStopped
from onnxserve_server.scheduling.services import Services
from onnxserve_server.spec import ModelSpec


class Engine:
    """Implements seam.Inference. Everything may be called from any thread.

    Attributes:
        table: the versions that serve.
        services: what they share.
        clock: tells the time in seconds.
        flush: see Flusher.flush; after the last of a burst of requests has been submitted.
        default_timeout: seconds that a request has whose caller names no deadline; inf: as long as it takes.
        draining: whether new requests are refused.
        refused: requests that were refused since drain().
    """

    def __init__(self, table: Table, services: Services) -> None:
        self.table = table
        self.services = services
        self.clock = services.clock
        self.flush = services.flusher.flush
        self.default_timeout = services.default_timeout
        self.draining = False
        self.refused = 0

    def drain(self) -> None:
        """Refuse new requests from now on; those that were accepted are finished."""
        self.draining = True

    def submit(self, request: Request, done: Done) -> Job:
        """Admit and queue a request. `done` is called once with the outcome, perhaps before this returns.

        Call flush() when there are no more requests to submit for the moment.

        Raises:
            ModelNotFound: no model has that name, or it has no such version.
            ModelStopped: it was stopped.
            InvalidRequest: the request does not fit the model.
            QueueFull, DeadlineExceeded: the queue does not take it; see Batcher.submit.
            Draining: the server is about to stop.
        """
        arrived = self.clock()
        if self.draining:
            self.refused += 1
            raise Draining("the server is about to stop")
        if request.deadline == math.inf != self.default_timeout:
            request = request._replace(deadline=arrived + self.default_timeout)
        model = self.table.resolve(request.model, request.version)
        try:
            return model.submit(request, arrived, done)
        except ModelStopped:
            other = self.table.resolve(request.model, request.version)
            if other is model:
                raise
            return other.submit(request, arrived, done)  # it was swapped since we looked

    def sequences(self) -> StreamSequences:
        """Return an empty set of sequences, for one stream."""
        return StreamSequences(self)

    def spec(self, name: str, version: str = "") -> ModelSpec:
        """Return what is known of a version that serves; raises as Table.resolve() does."""
        return self.table.resolve(name, version).spec

    def busy(self) -> dict[tuple[str, str], float]:
        """Return how long the executors of each version have run so far, in seconds, over their number."""
        models = self.table.models()
        return {(model.spec.name, model.spec.version): model.run_seconds / model.spec.instances for model in models}
