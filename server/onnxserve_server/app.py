"""Wire everything together: start, serve, drain, stop. Nothing is decided here that another module could decide."""

import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Callable

from onnxserve import __version__
from onnxserve_server import sockets
from onnxserve_server.core import Clock
from onnxserve_server.edge.health import NOT_SERVING, SERVING, Health
from onnxserve_server.edge.inflight import StreamBudget, Window
from onnxserve_server.edge.load_report import LoadReport
from onnxserve_server.edge.messages import Gzip, parse
from onnxserve_server.edge.server import INFERENCE, MODELS, GrpcServer, ServerOptions
from onnxserve_server.engine.engine import Engine
from onnxserve_server.engine.sequence_state import warn_of_states
from onnxserve_server.engine.table import Table
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.files import bytes_of_versions
from onnxserve_server.repository.load_status import LoadState, LoadStatus
from onnxserve_server.repository.loader import Defaults
from onnxserve_server.repository.manager import ModelManager, Repository
from onnxserve_server.runtime.arena import bound_runs
from onnxserve_server.runtime.heap import HeapWatch
from onnxserve_server.runtime.prober import ProbeLimits
from onnxserve_server.runtime.resources import memory_left, open_descriptors, raise_descriptor_limit, resources
from onnxserve_server.scheduling.backlog import Backlog
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.scheduling.services import Services
from onnxserve_server.settings import Settings
from onnxserve_server.telemetry import logs
from onnxserve_server.telemetry.metrics import Sources
from onnxserve_server.telemetry.telemetry import Options, Telemetry
from onnxserve_server.web.app import make_app
from onnxserve_server.web.server import MAX_CONNECTIONS, HttpServer
from onnxserve_server.web.status import ServerStatus
from onnxserve_server.web.uploads import MAX_BODY

logger = logging.getLogger(__name__)

# A finished run waits this long for the interpreter lock while another thread computes. CPython's default of 5 ms is
# longer than most runs. Between 0.2 and 2 ms single calls come out the same; below 0.5 ms sequences, whose three
# threads all compute, pay for the switching: 15 % more CPU time a step.
_SWITCH_INTERVAL = 0.001
_SPARE_DESCRIPTORS = 64  # for files, pipes and sockets that come and go
# Models may take half of the memory that is left before they are loaded, and twice the bytes of their files: weights
# are held as they are, and as kernels want them. An eighth is left for what nobody counts.
_FILES_TIMES = 2
_UNCOUNTED_SHARE = 8
_WAITING_SHARE = 4  # of the memory that is left, this part may wait: messages on their way need more than they hold


class App:
    """A server, from start() to stop(). run() does both, with a wait between.

    Attributes:
        engine: runs the requests.
        manager: owns the models.
        health: what probes are told.
        telemetry: what is counted; None without.
        budget: what streams have in flight together.
        grpc: the gRPC server; None until every model is loaded.
        port: where it listens, once started.
        http_port: where it answers HTTP, once started; -1: nowhere.
    """

    def __init__(self, settings: Settings, clock: Clock = time.monotonic) -> None:
        self.settings = settings
        self._gzip = _gzip(settings, settings.max_message_bytes)
        self.health = Health(parse if self._gzip is None else self._gzip.parse)
        self.budget = StreamBudget(_window(settings))
        table, backlog = Table(), Backlog()
        sources = Sources(table=table, backlog=backlog, streams=self.budget)
        self.telemetry = Telemetry(_telemetry_options(settings), clock, sources) if settings.telemetry else None
        observer = None if self.telemetry is None else self.telemetry.recorder
        self._deadlines = DeadlineWatch(clock)
        self._heap = HeapWatch()
        services = Services(
            clock=clock,
            deadlines=self._deadlines,
            backlog=backlog,
            observer=observer,
            max_response_bytes=settings.max_response_bytes or settings.max_message_bytes,
            default_timeout=settings.default_timeout or math.inf,
        )
        self.engine = Engine(table, services)
        self.manager = ModelManager(_repository(settings), table, services, self._on_model_change)
        self.grpc: GrpcServer | None = None
        self.port = 0
        self.http_port = -1
        self._max_unsent = 0
        self._paths: list[str] = []  # of the Unix sockets on which it listens
        self._http: HttpServer | None = None

    @property
    def edge_name(self) -> str:
        """The edge that is really used, "lane" or "plain"; "" until the server listens."""
        return "" if self.grpc is None else self.grpc.edge_name

    def start(self, stop: threading.Event | None = None) -> None:
        """Load every model, then listen; neither once `stop` is set.

        Raises:
            ConfigurationError: a model cannot be loaded, or the port cannot be had.
        """
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self._check_address()  # before minutes of loading
        self._start_http()
        if self.telemetry is not None:
            self.telemetry.start()
        self._deadlines.start()
        bound_runs(self.settings.all_run_bytes or self._run_bytes())
        self.manager.load_all(stop)
        if stop is not None and stop.is_set():
            return
        self._bound_memory()
        self._heap.start()
        self.grpc = GrpcServer(self._server_options(), self.engine, self.health, self.budget)
        self.port = self.grpc.start()
        if self.settings.address:
            self._paths.append(self.settings.address)
        names = {f"model/{model.spec.name}" for model in self.engine.table.models()}
        self.health.set([*names, INFERENCE, MODELS, ""], SERVING)

    def run(self, stop: threading.Event, ready: Callable[[str], None]) -> None:
        """Serve until `stop` is set, then drain. `ready` is told the address once every model serves.

        Raises:
            ConfigurationError: as start() does.
        """
        try:
            self.start(stop)
            if not stop.is_set():
                self._announce(ready)
                stop.wait()
            self.drain()
        except ConfigurationError as error:
            logger.error("the start failed: %s", error, extra=logs.START_FAILED)  # now, while it can still be pushed
            raise
        finally:
            self.stop()
        logger.info("stopped")
        logs.flush()

    def drain(self) -> None:
        """Tell load balancers, go on serving for a while, refuse new calls, and finish those in flight."""
        if self.grpc is None:
            return
        logger.info("draining: new calls are refused in %.1f s", self.settings.drain_delay)
        self.health.drain()
        time.sleep(self.settings.drain_delay)
        self.grpc.drain(self.settings.drain_timeout)

    def stop(self) -> None:
        """Stop at once whatever runs; after drain() nothing does."""
        if self.grpc is None:
            self.manager.stop_all()
        else:
            self.grpc.stop(self.manager.stop_all)
        self._deadlines.stop()
        self._heap.stop()
        if self._http is not None:
            self._http.stop()
        for address in self._paths:
            sockets.remove(address)
        if self.telemetry is not None:
            self.telemetry.stop()
        logs.flush()

    def _start_http(self) -> None:
        if self.settings.http_port < 0 and not self.settings.http_address:
            return
        status = ServerStatus(self.engine, self.manager.statuses, self.health.ready, self.telemetry)
        gzip = _gzip(self.settings, MAX_BODY)
        ungzip = None if gzip is None else gzip.unpack
        self._http = HttpServer(lambda: make_app(status, ungzip), self._listen_for_http())
        self.http_port = self._http.port
        self._http.start()

    def _address(self, port: int) -> str:
        return self.settings.address or sockets.address_of(self.settings.host, port)

    def _check_address(self) -> None:
        if self.settings.address:
            sockets.check_path(self.settings.address)
        else:
            sockets.check_port(self.settings.host, self.settings.port)

    def _listen_for_http(self) -> socket.socket:
        settings = self.settings
        if settings.http_address:
            listener = sockets.listen_at(settings.http_address)
            self._paths.append(settings.http_address)
            logger.info("status page on %s", settings.http_address)
            return listener
        listener = sockets.listen(settings.host, settings.http_port)
        logger.info("status page on http://%s", sockets.address_of(settings.host, listener.getsockname()[1]))
        return listener

    def _announce(self, ready: Callable[[str], None]) -> None:
        address, models = self._address(self.port), len(self.engine.table.models())
        fields = {"address": address, "version": __version__, "edge": self.edge_name, "models": models}
        logger.info("ready", extra=fields)
        ready(address)

    def _on_model_change(self, status: LoadStatus) -> None:
        """Have health and metrics say what became of a version."""
        name = f"model/{status.model}"
        if status.state is not LoadState.LOADING and self.engine.table.find(status.model) is None:
            self.health.set([name], NOT_SERVING)
        elif status.state is LoadState.READY and self.grpc is not None:
            self.health.set([name], SERVING)
        if self.telemetry is not None:
            self.telemetry.on_model_change(status)

    def _run_bytes(self) -> int:
        """Return how many bytes the models and their runs may take, so that requests and answers have room, too."""
        left = memory_left()
        return min(left // 2 + _FILES_TIMES * bytes_of_versions(self.settings.models), left - left // _UNCOUNTED_SHARE)

    def _bound_memory(self) -> None:
        """Set how much may wait, of requests and of answers, now that the models have taken their memory."""
        settings, granted = self.settings, resources()
        left = memory_left()
        limit = settings.all_queue_bytes or max(left // _WAITING_SHARE, settings.max_message_bytes)
        self.engine.services.backlog.limit = limit
        self._max_unsent = settings.all_unsent_bytes or left // _WAITING_SHARE
        self.budget.max_nbytes = self._max_unsent
        warn_of_states([model.spec for model in self.engine.table.models()], left)
        text = f"queued requests are limited to {limit >> 20} MiB; {left >> 20} MiB of memory are left"
        if limit > left // 2:
            logger.warning(
                "%s (%s): give the server more memory, or lower all_queue_bytes and max_message_bytes",
                text,
                granted.memory_from,
            )
        else:
            logger.info("%s (%s)", text, granted.memory_from)

    def _max_connections(self) -> int:
        """Return how many gRPC connections there may be, so that descriptors are left for probes and for files."""
        wanted, limit = self.settings.max_connections, raise_descriptor_limit()
        possible = max(1, limit - open_descriptors() - MAX_CONNECTIONS - _SPARE_DESCRIPTORS)
        if possible < wanted:
            logger.warning(
                "gRPC connections are limited to %d, not %d: the process may open %d files; raise that (ulimit -n)",
                possible,
                wanted,
                limit,
            )
        return min(possible, wanted)

    def _server_options(self) -> ServerOptions:
        settings = self.settings
        cpus = resources().cpus
        report = LoadReport(self.engine.clock, lambda: time.process_time() / cpus, self.engine.busy)
        return ServerOptions(
            address=self._address(settings.port),
            edge=settings.edge,
            workers=settings.workers,
            max_message_bytes=settings.max_message_bytes,
            gzip=self._gzip,
            max_connections=self._max_connections(),
            max_peer_connections=settings.max_peer_connections,
            max_connection_calls=settings.max_connection_calls,
            max_header_bytes=settings.max_header_bytes,
            min_ping_interval=settings.min_ping_interval,
            max_unsent_bytes=self._max_unsent,
            max_connection_age=settings.max_connection_age,
            max_connection_age_grace=settings.max_connection_age_grace,
            stream_lifetime=settings.stream_lifetime,
            trailer=report.trailer if settings.load_report else None,
            note_burst=None if self.telemetry is None else self.telemetry.recorder.note_burst,
        )


def _window(settings: Settings) -> Window:
    return Window(
        requests=settings.stream_requests, nbytes=settings.stream_bytes, all_requests=settings.all_stream_requests
    )


def _gzip(settings: Settings, max_bytes: int) -> Gzip | None:
    return None if settings.compression == "identity" else Gzip(max_bytes, settings.compression_ratio)


def _telemetry_options(settings: Settings) -> Options:
    return Options(endpoint=settings.otlp_endpoint, interval=settings.otlp_interval, trace_ratio=settings.trace_ratio)


def _repository(settings: Settings) -> Repository:
    return Repository(
        root=settings.models,
        batching_defaults=settings.batching_defaults,
        defaults=Defaults(
            threads=settings.threads,
            providers=settings.providers,
            allow_cpu_fallback=settings.allow_cpu_fallback,
            max_inline=settings.inline_us / 1e6,
        ),
        skip_broken=settings.skip_broken_models,
        probe_limits=ProbeLimits(tries=settings.probe_timeout, memory_bytes=settings.probe_memory_bytes),
    )
