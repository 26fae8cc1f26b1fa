"""The one owner of a model's life: nothing else loads a model, adds it to the table, or stops it."""

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from onnxserve_server.engine.servable import Servable
from onnxserve_server.engine.table import Table
from onnxserve_server.errors import ConfigurationError, ModelNotFound
from onnxserve_server.repository.discovery import Found, discover
from onnxserve_server.repository.files import contained
from onnxserve_server.repository.load_status import LoadStatus, LoadStatuses
from onnxserve_server.repository.loader import Defaults, load
from onnxserve_server.runtime.prober import ProbeLimits, Prober
from onnxserve_server.runtime.resources import resident_bytes
from onnxserve_server.scheduling.services import Services

logger = logging.getLogger(__name__)

_EVERY_ONE = {"suppressed": 0}  # of these lines is logged: a start has as many as models, whatever callers do


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """The directory of models, and the settings that hold for all of them.

    Attributes:
        root: the directory that holds the models.
        batching_defaults: the server's settings for batching, by the keys of model.yaml.
        defaults: its other settings for models whose model.yaml says nothing.
        skip_broken: whether load_all() goes on without a model that cannot be loaded.
        probe_limits: what it may take to try a model.
    """

    root: Path
    batching_defaults: dict[str, object]
    defaults: Defaults
    skip_broken: bool = False
    probe_limits: ProbeLimits = field(default_factory=ProbeLimits)


class ModelManager:
    """Loads and stops models while requests run. Everything may be called from any thread; one load or stop at a time.

    Args:
        repository: the models on disk.
        table: the versions that serve; changed by this object alone.
        services: shared by all models.
        on_change: called with each new status of a version: when requests can reach one that is ready, and none can
            reach one that was stopped. It must not load or stop any.

    Attributes:
        statuses: the state of each version.
    """

    def __init__(
        self,
        repository: Repository,
        table: Table,
        services: Services,
        on_change: Callable[[LoadStatus], None] = lambda _: None,
    ) -> None:
        self.statuses = LoadStatuses()
        self._repository = repository
        self._table = table
        self._services = services
        self._on_change = on_change
        self._lock = threading.Lock()  # one load or stop at a time
        self._adding = threading.Lock()  # stop_all() does not wait for a load, but none may add a model after it
        self._stopping = threading.Event()

    def load_all(self, stop: threading.Event | None = None) -> None:
        """Load every model of the repository, or stop between two models once `stop` is set.

        Raises:
            ConfigurationError: a model cannot be loaded; with skip_broken, none can.
        """
        repository = self._repository
        with Prober(repository.probe_limits, stop or self._stopping) as prober:
            for found in discover(repository.root, repository.batching_defaults, self._note_broken):
                if stop is not None and stop.is_set():
                    return
                try:
                    self.load(found, prober)
                except ConfigurationError as error:
                    if stop is not None and stop.is_set():
                        return
                    self._skip(found.name, found.version, error)
        if not self._table.models():
            raise ConfigurationError(
                f"{repository.root}: none of its models can be loaded; see the log for the reasons"
            )

    def load(self, found: Found, prober: Prober | None = None) -> None:
        """Load a version and serve it. If one of that name and number serves, it is replaced, then stopped.

        Raises:
            ConfigurationError: it cannot be loaded; the version that served before goes on serving.
        """
        with self._lock, contextlib.ExitStack() as stack:
            self._load(found, prober or stack.enter_context(Prober(self._repository.probe_limits, self._stopping)))

    def stop(self, name: str, version: str) -> None:
        """Refuse new requests for a version with MODEL_STOPPED, finish those that wait, and give back its memory.

        Raises:
            ModelNotFound: it does not serve.
        """
        with self._lock:
            model = self._serving(name, version)
            if model is None:
                raise ModelNotFound(f"model {name}/{version} does not serve", f"{name}/{version}")
            self._table.remove(model)
            model.stop()
            self._on_change(self.statuses.stop(name, version))
        logger.info("model %s/%s is stopped", name, version)

    def stop_all(self) -> None:
        """Stop every version, and load no more; the statuses stay as they are, because the server stops too."""
        with self._adding:
            self._stopping.set()
        for model in self._table.models():
            model.stop()

    def _note_broken(self, name: str, version: str, error: ConfigurationError) -> None:
        """Note a model, or a version of one, that is not even tried."""
        self._on_change(self.statuses.fail(self.statuses.begin(name, version), str(error)))
        self._skip(name, version, error)

    def _skip(self, name: str, version: str, error: ConfigurationError) -> None:
        """Go on without a model; raises the error if the server must not."""
        if not self._repository.skip_broken:
            raise error
        label = f"{name}/{version}" if version else name
        logger.error("model %s is skipped: %s", label, error, extra=_EVERY_ONE)

    def _load(self, found: Found, prober: Prober) -> None:
        logger.info("loading model %s/%s", found.name, found.version)
        loading = self.statuses.begin(found.name, found.version)
        self._on_change(loading)
        before = resident_bytes()
        old = self._serving(found.name, found.version)
        try:
            model = self._started(found, prober)
            self._put(model, old)
        except ConfigurationError as error:
            self._on_change(self.statuses.fail(loading, str(error)))
            raise
        if old is not None:
            old.stop()
        self._on_change(self.statuses.succeed(loading, max(0, resident_bytes() - before)))
        logger.info("model %s/%s is loaded on %s", found.name, found.version, model.spec.providers[0])

    def _started(self, found: Found, prober: Prober) -> Servable:
        """Return a version that takes requests, once it is in the table."""
        with contained(found.path):
            model = load(found, self._repository.defaults, prober, self._services)
            model.start()
        return model

    def _put(self, model: Servable, old: Servable | None) -> None:
        """Have a version serve, in the place of the old one; stop it if the server has stopped meanwhile."""
        with self._adding:
            if not self._stopping.is_set():
                self._table.add(model) if old is None else self._table.swap(old, model)
                return
        model.stop()
        raise ConfigurationError(f"{model.spec.name}/{model.spec.version}: it is not loaded, for the server stops")

    def _serving(self, name: str, version: str) -> Servable | None:
        models = self._table.models()
        return next((model for model in models if (model.spec.name, model.spec.version) == (name, version)), None)
