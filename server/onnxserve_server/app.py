"""Wire everything together: start, serve, drain, stop. Nothing is decided here that another module could decide."""

import logging
import math
import sys
import threading
import time
from collections.abc import Callable

from onnxserve import __version__
from onnxserve_server.core import Clock
from onnxserve_server.edge.health import NOT_SERVING, SERVING, Health
from onnxserve_server.edge.inflight import StreamBudget, Window
from onnxserve_server.edge.load_report import LoadReport
from onnxserve_server.edge.server import INFERENCE, MODELS, GrpcServer, ServerOptions, bracketed, check_port
from onnxserve_server.engine.engine import Engine
from onnxserve_server.engine.table import Table
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.load_status import LoadState, LoadStatus
from onnxserve_server.repository.loader import Defaults
from onnxserve_server.repository.manager import ModelManager, Repository
from onnxserve_server.runtime.resources import resident_bytes, resources
from onnxserve_server.scheduling.backlog import Backlog
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.scheduling.services import Services
from onnxserve_server.settings import Settings
from onnxserve_server.telemetry import logs
from onnxserve_server.telemetry.metrics import Sources
from onnxserve_server.telemetry.telemetry import Options, Telemetry
from onnxserve_server.web.app import make_app
from onnxserve_server.web.server import HttpServer
from onnxserve_server.web.status import ServerStatus

logger = logging.getLogger(__name__)

# A finished run waits this long for the interpreter lock while another thread computes. CPython's default of 5 ms is
# longer than most runs. Between 0.2 and 2 ms single calls come out the same; below 0.5 ms sequences, whose three
# threads all compute, pay for the switching: 15 % more CPU time a step.
_SWITCH_INTERVAL = 0.001
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
        self.health = Health()
        self.budget = StreamBudget(_window(settings))
        table, backlog = Table(), Backlog()
        sources = Sources(table=table, backlog=backlog, streams=self.budget)
        self.telemetry = Telemetry(_telemetry_options(settings), clock, sources) if settings.telemetry else None
        observer = None if self.telemetry is None else self.telemetry.recorder
        self._deadlines = DeadlineWatch(clock)
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
        check_port(self.settings.host, self.settings.port)  # before minutes of loading
        self._start_http()
        if self.telemetry is not None:
            self.telemetry.start()
        self._deadlines.start()
        self.manager.load_all(stop)
        if stop is not None and stop.is_set():
            return
        self._bound_backlog()
        self.grpc = GrpcServer(self._server_options(), self.engine, self.health, self.budget)
        self.port = self.grpc.start()
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
        if self._http is not None:
            self._http.stop()
        if self.telemetry is not None:
            self.telemetry.stop()
        logs.flush_withheld()

    def _start_http(self) -> None:
        if self.settings.http_port < 0:
            return
        status = ServerStatus(self.engine, self.manager.statuses, self.health.ready, self.telemetry)
        self._http = HttpServer(lambda: make_app(status), self.settings.host, self.settings.http_port)
        self.http_port = self._http.port
        self._http.start()
        logger.info("status page on http://%s:%d", bracketed(self.settings.host), self.http_port)

    def _announce(self, ready: Callable[[str], None]) -> None:
        address, models = f"{bracketed(self.settings.host)}:{self.port}", len(self.engine.table.models())
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

    def _bound_backlog(self) -> None:
        """Set how much may wait, now that the models have taken their memory."""
        settings, granted = self.settings, resources()
        left = max(0, granted.memory_bytes - resident_bytes())
        limit = settings.all_queue_bytes or max(left // _WAITING_SHARE, settings.max_message_bytes)
        self.engine.services.backlog.limit = limit
        text = f"queued requests are limited to {limit >> 20} MiB; {left >> 20} MiB of memory are left"
        if limit > left // 2:
            logger.warning(
                "%s (%s): give the server more memory, or lower all_queue_bytes and max_message_bytes",
                text,
                granted.memory_from,
            )
        else:
            logger.info("%s (%s)", text, granted.memory_from)

    def _server_options(self) -> ServerOptions:
        settings = self.settings
        cpus = resources().cpus
        report = LoadReport(self.engine.clock, lambda: time.process_time() / cpus, self.engine.busy)
        return ServerOptions(
            host=settings.host,
            port=settings.port,
            edge=settings.edge,
            workers=settings.workers,
            max_message_bytes=settings.max_message_bytes,
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
    )
