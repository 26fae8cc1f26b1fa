"""The engine: all models behind one door. It knows no transport."""

import threading
from collections import deque
from collections.abc import Callable

from onnxserve_server.core import Clock, Done, Job, Request
from onnxserve_server.engine.admission import Admission
from onnxserve_server.engine.entry import Entry
from onnxserve_server.engine.model import ServedModel
from onnxserve_server.engine.sequence_state import States
from onnxserve_server.engine.splitting import Split
from onnxserve_server.engine.stream_sequences import SequenceSet
from onnxserve_server.errors import Draining, InvalidRequest, ModelNotFound, ServeError, Violation
from onnxserve_server.scheduling.backlog import Backlog
from onnxserve_server.spec import ModelSpec


class Engine:
    """Finds the model of a request, admits it and queues it. Everything may be called from any thread.

    Attributes:
        backlog: what waits for all models.
        refused: requests that were refused since drain().
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.backlog = Backlog()
        self._lock = threading.Lock()
        # By name and version; (name, "") is the newest. Replaced, never changed, so that readers need no lock.
        self._entries: dict[tuple[str, str], Entry] = {}
        self._unflushed: deque[ServedModel] = deque()
        self._thread = threading.local()
        self.draining = False
        self.refused = 0

    def add(self, model: ServedModel) -> None:
        """Serve a model. Of several versions of one name, the one added last is what requests without a version get."""
        model.settle_by(self.settle)
        model.share(self.backlog)
        entry = Entry(model, Admission(model.spec), States(model.spec))
        with self._lock:
            self._entries = {
                **self._entries,
                (model.spec.name, model.spec.version): entry,
                (model.spec.name, ""): entry,
            }

    def drain(self) -> None:
        """Refuse new requests from now on; those that were taken are finished."""
        self.draining = True

    def submit(self, request: Request, done: Done) -> Job:
        """Admit and queue a request. `done` is called once with the outcome, perhaps before this returns.

        Call flush() when there are no more requests to submit for the moment.

        Raises:
            ModelNotFound: no model has that name, or it has no such version.
            InvalidRequest: the request does not fit the model.
            QueueFull, DeadlineExceeded, Draining: the queue does not take it; see Batcher.submit.
        """
        arrived = self.clock()
        if self.draining:
            self.refused += 1
            raise Draining("the server is about to stop")
        entry = self.entry(request.model, request.version)
        job = entry.admission.admit(request, arrived, done)
        if request.trace is not None:
            request.trace.mark("queue")
        self.queue(entry, job)
        return job

    def sequences(self) -> SequenceSet:
        """Return an empty set of sequences, for one stream."""
        return SequenceSet(self)

    def queue(self, entry: Entry, job: Job) -> None:
        """Queue an admitted job, also while draining; raises as submit() does."""
        max_rows = entry.model.spec.batching.max_rows
        if job.rows <= max_rows:
            self._queue(entry.model, job)
        else:
            self._queue_parts(entry.model, job, max_rows)

    def flush(self) -> None:
        """Have run what has been submitted. Models whose runs are short are run here, by the calling thread.

        A job that ends may have another one submitted, and this be called, on a thread that flushes or scatters: it is
        flushed with what else that thread has ended by then.
        """
        self.settle(_nothing)

    def settle(self, work: Callable[[], None]) -> None:
        """Do work that ends jobs, then flush."""
        thread = self._thread
        if getattr(thread, "is_settling", False):
            work()
            return
        thread.is_settling = True
        try:
            work()
            while self._unflushed:
                try:
                    model = self._unflushed.popleft()
                except IndexError:  # another thread was faster
                    return
                model.flush()
        finally:
            thread.is_settling = False

    def known(self, name: str, version: str = "") -> ModelSpec | None:
        """Return what is known of a model; None: nothing is."""
        entry = self._entries.get((name, version))
        return None if entry is None else entry.model.spec

    def spec(self, name: str, version: str = "") -> ModelSpec:
        """Return what is known of a model; raises ModelNotFound."""
        return self.entry(name, version).model.spec

    def busiest(self) -> float:
        """Return the longest that a model's executors have run so far, in seconds, over their number."""
        return max((model.run_seconds / model.spec.instances for model in self.models()), default=0.0)

    def models(self) -> list[ServedModel]:
        """Return every version of every model, by name, oldest version first."""
        return [entry.model for (_, version), entry in sorted(self._entries.items(), key=_by_name_and_age) if version]

    def _queue(self, model: ServedModel, job: Job) -> None:
        if model.submit(job):
            self._unflushed.append(model)

    def _queue_parts(self, model: ServedModel, job: Job, max_rows: int) -> None:
        """Queue the parts of a large job, all or none."""
        split = Split(job, max_rows, model.spec.inputs)
        try:
            for part in split.parts:
                self._queue(model, part)
        except ServeError:
            refused = job.discard()  # else a part that ran meanwhile has ended the job, and its caller knows
            split.withdraw_parts()
            if refused:
                raise

    def entry(self, name: str, version: str = "") -> Entry:
        """Return what is kept of a model; raises ModelNotFound, or InvalidRequest where it has no name."""
        entry = self._entries.get((name, version))
        if entry is not None:
            return entry
        if not name:
            raise InvalidRequest([Violation("model", "the name of a model is required")])
        versions = [known for (model, known) in self._entries if model == name and known]
        if versions:
            raise ModelNotFound(
                f"model {name!r} has no version {version!r}; it has {', '.join(versions)}", f"{name}/{version}"
            )
        names = ", ".join(sorted({model for model, _ in self._entries})) or "none"
        raise ModelNotFound(f"there is no model {name!r}; there are: {names}", name)


def _by_name_and_age(item: tuple[tuple[str, str], Entry]) -> tuple[str, int, str]:
    name, version = item[0]
    return name, int(version) if version.isdecimal() else 0, version


def _nothing() -> None:
    pass
