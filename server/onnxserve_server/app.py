"""Wire everything together: start, serve, drain, stop. Nothing is decided here that another module could decide."""

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import grpc
from grpc_reflection.v1alpha import reflection

from onnxserve import __version__
from onnxserve.v1 import inference_service_pb2, model_service_pb2, model_service_pb2_grpc
from onnxserve_server.core import Clock
from onnxserve_server.edge import health
from onnxserve_server.edge.calls import Call, StreamCall
from onnxserve_server.edge.inflight import Window
from onnxserve_server.edge.load_report import LoadReport
from onnxserve_server.edge.models import ModelServicer
from onnxserve_server.edge.plain import PlainEdge
from onnxserve_server.edge.predict import Predict
from onnxserve_server.edge.stream import Stream
from onnxserve_server.edge.streams import Streams
from onnxserve_server.engine.engine import Engine
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.repository.discovery import Found, discover
from onnxserve_server.repository.load_status import Loads
from onnxserve_server.repository.loader import Defaults, load
from onnxserve_server.runtime.probe import Prober
from onnxserve_server.runtime.resources import resources
from onnxserve_server.scheduling.deadlines import DeadlineWatch
from onnxserve_server.settings import Settings
from onnxserve_server.telemetry import logs
from onnxserve_server.telemetry.system import resident_bytes
from onnxserve_server.telemetry.telemetry import Options, Telemetry
from onnxserve_server.web.app import make_app
from onnxserve_server.web.server import HttpServer
from onnxserve_server.web.status import ServerStatus

logger = logging.getLogger(__name__)

_INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_MODELS = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
_PREDICT = f"/{_INFERENCE}/Predict"
_STREAM = f"/{_INFERENCE}/Stream"
_CHECK = f"/{health.SERVICE}/Check"

# A finished run waits this long for the interpreter lock while another thread computes. CPython's default of 5 ms is
# longer than most runs. Between 0.2 and 2 ms single calls come out the same; below 0.5 ms sequences, whose three
# threads all compute, pay for the switching: 15 % more CPU time a step.
_SWITCH_INTERVAL = 0.001
# Calls that the core holds when a server stops it ends with CANCELLED, which few clients try again. So callers are told
# UNAVAILABLE first, until none has called for a while. Not for long: those that balance by themselves go on calling
# until their connection ends, and a call is tried again each 0.1 s (Draining.retry_after), three times or so in all.
_QUIET = 0.1  # seconds
_MOST_REFUSING = 0.2
_MOST_PENDING = 100_000
_WAITING_SHARE = 4  # of the memory that is left, this part may wait: messages on their way need more than they hold
_MOST_STREAMS = 4096  # calls at a time on one connection; further ones wait at their client
_HANDING_OVER = 1.0  # seconds for streams that are cut off to hand their states over
_STOP_TIMEOUT = 5.0  # seconds in which the core must let go of what has ended
_WATCHERS_GRACE = 0.2  # seconds that calls without an end of their own, such as Health.Watch, get at the very end


class Edge(Protocol):
    """What the two edges have in common."""

    def start(self) -> None:
        """Take calls."""
        ...

    def wait_drained(self, timeout: float) -> bool:
        """Wait until the last call is over; tell whether it is."""
        ...

    def stop(self) -> bool:
        """End what the edge itself runs; False: a call that was never answered is left behind."""
        ...


class App:
    """A server, from start() to stop(). run() does both, with a wait between.

    Attributes:
        port: where it listens, once started.
        http_port: where it answers HTTP, once started; -1: nowhere.
        edge_name: "lane" or "plain": the edge that is really used.
        telemetry: what is counted; None without.
    """

    def __init__(self, settings: Settings, clock: Clock = time.monotonic) -> None:
        self.settings = settings
        self.engine = Engine(clock)
        self.port = 0
        self.http_port = -1
        self.edge_name = ""
        self._clock = clock
        self._deadlines = DeadlineWatch(clock)
        self._loads = Loads()
        self._health = health.Health()
        self.telemetry = self._make_telemetry() if settings.telemetry else None
        self._http: HttpServer | None = None
        self._pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="onnxserve-grpc")
        self._server: grpc.Server
        self._streams: Streams
        self._edge: Edge

    def start(self, stop: threading.Event | None = None) -> None:
        """Load every model, then listen; neither once `stop` is set.

        Raises:
            ConfigurationError: a model cannot be loaded, or the port cannot be had.
        """
        sys.setswitchinterval(_SWITCH_INTERVAL)
        settings = self.settings
        self._check_port()  # before minutes of loading
        self._start_http()
        if self.telemetry is not None:
            self.telemetry.start()
        self._deadlines.start()
        defaults = Defaults(
            threads=settings.threads,
            providers=settings.providers,
            allow_cpu_fallback=settings.allow_cpu_fallback,
            longest_inline=settings.inline_us / 1e6,
        )
        with Prober() as prober:
            for found in discover(settings.models, settings.batching_defaults):
                if stop is not None and stop.is_set():
                    return
                self._load(found, defaults, prober)
        if not self.engine.models():
            raise ConfigurationError(f"{settings.models}: none of its models can be loaded; the log says why")
        self._bound_backlog()
        self._listen()
        names = {f"model/{model.spec.name}" for model in self.engine.models()}
        self._health.set([*names, _INFERENCE, _MODELS, ""], health.SERVING)

    def _load(self, found: Found, defaults: Defaults, prober: Prober) -> None:
        logger.info("loading model %s/%s", found.name, found.version)
        self._loads.begin(found.name, found.version)
        before = resident_bytes()
        observer = None if self.telemetry is None else self.telemetry.recorder
        try:
            model = load(found, defaults, prober, self._clock, self._deadlines, observer=observer)
        except ConfigurationError as error:
            loaded = self._loads.fail(found.name, found.version, str(error))
            if not self.settings.skip_broken_models:
                raise
            logger.error("model %s/%s is left out: %s", found.name, found.version, error)
            self._health.set([f"model/{found.name}"], health.NOT_SERVING)
        else:
            self.engine.add(model)
            model.start()
            loaded = self._loads.succeed(found.name, found.version, max(0, resident_bytes() - before))
            logger.info("model %s/%s is loaded on %s", found.name, found.version, model.spec.providers[0])
        if self.telemetry is not None:
            self.telemetry.note_load(loaded)

    def _bound_backlog(self) -> None:
        """Set how much may wait, now that the models have taken their memory."""
        settings, granted = self.settings, resources()
        left = max(0, granted.memory_bytes - resident_bytes())
        limit = settings.all_queue_bytes or max(left // _WAITING_SHARE, settings.max_message_bytes)
        self.engine.backlog.limit = limit
        if self.telemetry is not None:
            self.telemetry.note_backlog(limit)
        told = f"{limit >> 20} MiB of requests may wait; {left >> 20} MiB of memory are left ({granted.memory_from})"
        if limit > left // 2:
            logger.warning("%s: give the server more memory, or lower all_queue_bytes and max_message_bytes", told)
        else:
            logger.info("%s", told)

    def _make_telemetry(self) -> Telemetry:
        settings = self.settings
        options = Options(
            endpoint=settings.otlp_endpoint, interval=settings.otlp_interval, trace_ratio=settings.trace_ratio
        )
        return Telemetry(options, self._clock, self.engine.models, self.engine.known)

    def _start_http(self) -> None:
        if self.settings.http_port < 0:
            return
        status = ServerStatus(self.engine, self._loads, self._health.ready, self.telemetry)
        self._http = HttpServer(lambda: make_app(status), self.settings.host, self.settings.http_port)
        self.http_port = self._http.port
        self._http.start()
        logger.info("status page on http://%s:%d", _bracketed(self.settings.host), self.http_port)

    def run(self, stop: threading.Event, ready: Callable[[str], None]) -> None:
        """Serve until `stop` is set, then drain. `ready` is told the address once every model serves.

        Raises:
            ConfigurationError: as start() does.
        """
        try:
            self.start(stop)
            if not stop.is_set():
                self._tell_ready(ready)
                stop.wait()
            if self.edge_name:
                self.drain()
        except ConfigurationError as error:
            logger.error("the start failed: %s", error, extra=logs.START_FAILED)  # now, while it can still be pushed
            raise
        finally:
            self.stop()
        logger.info("stopped")

    def _tell_ready(self, ready: Callable[[str], None]) -> None:
        address, models = f"{_bracketed(self.settings.host)}:{self.port}", len(self.engine.models())
        told = {"address": address, "version": __version__, "edge": self.edge_name, "models": models}
        logger.info("ready", extra=told)
        ready(address)

    def drain(self) -> None:
        """Tell load balancers, go on serving for a while, refuse new calls, and finish those in flight."""
        logger.info("draining: new calls are refused in %.1f s", self.settings.drain_delay)
        self._health.drain()
        threading.Event().wait(self.settings.drain_delay)
        self._streams.stop()
        self._refuse()
        self._server.stop(self.settings.drain_timeout + _STOP_TIMEOUT)  # returns at once; stop() shortens it
        if not self._edge.wait_drained(self.settings.drain_timeout):
            logger.warning("calls were still in flight after %.1f s; they are ended", self.settings.drain_timeout)
            self._streams.cut_off(_HANDING_OVER)
            self._streams.abort()

    def _refuse(self) -> None:
        """Answer new calls with UNAVAILABLE until nobody calls."""
        self.engine.drain()
        end, seen = time.monotonic() + _MOST_REFUSING, -1
        while (refused := self.engine.refused + self._streams.refused) != seen and time.monotonic() < end:
            seen = refused
            threading.Event().wait(_QUIET)

    def stop(self) -> None:
        """Stop at once whatever runs; after drain() nothing does."""
        stopped = self._server.stop(_WATCHERS_GRACE) if self.edge_name else None
        for model in self.engine.models():
            model.stop()
        self._deadlines.stop()
        if stopped is not None and not (self._edge.stop() and stopped.wait(_STOP_TIMEOUT)):
            logger.error("calls are left behind that were never answered")
        self._pool.shutdown()
        if self._http is not None:
            self._http.stop()
        if self.telemetry is not None:
            self.telemetry.stop()
        logs.tell_withheld()

    def _check_port(self) -> None:
        host, port = self.settings.host, self.settings.port
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"{host}:{port}: cannot listen there: {error.strerror or error}; choose another --host or --port"
            ) from error

    def _listen(self) -> None:
        settings = self.settings
        self._server = grpc.server(
            self._pool,
            options=(
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # More calls may wait for us than the core would hold: it ends them with CANCELLED, we with QUEUE_FULL.
                ("grpc.server.max_pending_requests", _MOST_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
                ("grpc.max_concurrent_streams", _MOST_STREAMS),
                ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a share of the load
                # Clients may ping a quiet connection every 30 s; the default of 5 minutes would cut them off.
                ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
                *_ages(settings),
            ),
        )
        self._health.add_to(self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(self.engine), self._server)
        reflection.enable_server_reflection(
            (_INFERENCE, _MODELS, health.SERVICE, reflection.SERVICE_NAME), self._server
        )
        window = Window(
            requests=settings.stream_requests,
            nbytes=settings.stream_bytes,
            all_requests=settings.all_stream_requests,
        )
        observer = None if self.telemetry is None else self.telemetry.recorder
        self._streams = Streams(
            self.engine,
            self._clock,
            window,
            observer,
            lifetime=settings.stream_lifetime,
            watch=self._deadlines.watch,
        )
        self._deadlines.subscribe(self._streams.expire)
        if self.telemetry is not None:
            self.telemetry.metrics.streams = self._streams
        self._edge = self._make_edge(
            {_PREDICT: Predict(self.engine, self._clock, observer), _CHECK: self._health.check},
            {_STREAM: self._streams.open},
        )
        address = _bracketed(settings.host)
        try:
            self.port = self._server.add_insecure_port(f"{address}:{settings.port}")
        except RuntimeError as error:
            raise ConfigurationError(f"{settings.host}:{settings.port}: cannot listen there: {error}") from error
        self._server.start()
        self._edge.start()

    def _make_edge(
        self, methods: dict[str, Callable[[Call, bytes], None]], streams: dict[str, Callable[[StreamCall], Stream]]
    ) -> Edge:
        """Return the edge that the settings ask for, or the plain one when the lane does not work with this grpcio."""
        trailer = self._load_report().trailer if self.settings.load_report else None
        if self.settings.edge == "lane":
            try:
                from onnxserve_server.edge import lane, self_test

                self_test.run()
                note_burst = None if self.telemetry is None else self.telemetry.recorder.note_burst
                edge = lane.Lane(
                    self._server, methods, streams, self.engine.flush, note_burst=note_burst, trailer=trailer
                )
            except Exception as error:
                logger.warning(
                    "grpcio %s does not carry the lane (%s): serving on the plain edge, slower", grpc.__version__, error
                )
            else:
                self.edge_name = "lane"
                return edge
        self.edge_name = "plain"
        return PlainEdge(self._server, methods, streams, self.engine.flush, trailer)

    def _load_report(self) -> LoadReport:
        cpus = resources().cpus
        return LoadReport(self._clock, lambda: time.process_time() / cpus, self.engine.busiest)


def _ages(settings: Settings) -> list[tuple[str, int]]:
    """Return the channel arguments that end connections by their age; without them the core keeps each for ever."""
    ages = {"age": settings.max_connection_age, "age_grace": settings.max_connection_age_grace}
    return [(f"grpc.max_connection_{name}_ms", round(1000 * seconds)) for name, seconds in ages.items() if seconds]


def _bracketed(host: str) -> str:
    """Return a host as it stands before a port."""
    return f"[{host}]" if ":" in host else host
