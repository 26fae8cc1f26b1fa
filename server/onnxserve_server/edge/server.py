"""The gRPC server: its services, its edge, from start() to stop()."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import grpc

from onnxserve.v1 import inference_service_pb2, model_service_pb2
from onnxserve_server.edge import health, onnxserve_v1, reflection
from onnxserve_server.edge.calls import Handler, Metadata, StreamHandler
from onnxserve_server.edge.connections import Connections
from onnxserve_server.edge.inflight import StreamBudget
from onnxserve_server.edge.messages import Gzip, UnpackingCodec, parse
from onnxserve_server.edge.models import ModelService
from onnxserve_server.edge.plain import PlainEdge
from onnxserve_server.edge.pool import CallPool
from onnxserve_server.edge.predict import Predict
from onnxserve_server.edge.public import PublicServer
from onnxserve_server.edge.stream import StreamMethod
from onnxserve_server.edge.streams import Streams
from onnxserve_server.edge.unsent import UnsentAnswers
from onnxserve_server.engine.engine import Engine
from onnxserve_server.errors import ConfigurationError

logger = logging.getLogger(__name__)

INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
MODELS = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
_PREDICT = f"/{INFERENCE}/Predict"
_STREAM = f"/{INFERENCE}/Stream"
_CHECK = f"/{health.SERVICE}/Check"

# Calls that the core holds when a server stops it ends with CANCELLED, which few clients try again. So callers get
# UNAVAILABLE first, until none has called for a while. Not for long: those that balance by themselves go on calling
# until their connection ends, and a call is tried again each 0.1 s (Draining.retry_after), three times or so in all.
_QUIET = 0.1  # seconds
_MAX_REFUSING = 0.2
_MAX_PENDING = 100_000
_ALL_ENCODINGS = 0b111  # identity, deflate and gzip reach us, as they came: see messages.py
_HANDSHAKE = 10.0  # seconds in which a connection must be one of HTTP/2
_KEEPALIVE = 120.0  # seconds after which a silent connection is asked whether it is still there
_KEEPALIVE_TIMEOUT = 20.0
_HANDING_OVER = 1.0  # seconds for streams that are cut off to hand their states over
_STOP_TIMEOUT = 5.0  # seconds in which the core must let go of calls that have ended
_WATCHERS_GRACE = 0.2  # seconds that calls without an end of their own, such as Health.Watch, get at the very end


class Edge(Protocol):
    """Either edge, lane or plain."""

    @property
    def live_calls(self) -> int:
        """Calls that have been accepted and are not yet over."""
        ...

    def start(self) -> None:
        """Take calls."""
        ...

    def wait_drained(self, timeout: float) -> bool:
        """Wait until the last call is over; return whether it is."""
        ...

    def stop(self) -> bool:
        """End the edge's own threads; False: a call that never got its reply is left behind."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """How the server listens; times are in seconds, 0 for no limit.

    Attributes:
        address: to listen on, "host:port" (port 0 picks a free one) or "unix:/path".
        edge: the edge to serve by; the plain one stands in for a lane that does not work with this grpcio.
        workers: threads for all but the lane's calls.
        max_message_bytes: of one request.
        gzip: unpacks messages; None: none may be compressed.
        max_connections: in all; a further one is closed at once.
        max_peer_connections: of one address; 0: no limit.
        max_connection_calls: at a time on one connection; further ones wait at their client.
        max_header_bytes: of the metadata of a call.
        min_ping_interval: between two pings of a client while nothing else is sent.
        max_unsent_bytes: of replies that their callers have not read.
        max_connection_age: after which a connection is ended.
        max_connection_age_grace: that its calls have from then on.
        stream_lifetime: after which a stream is to end and its caller to open another one; inf for never.
        trailer: gives the trailing metadata of successful unary replies.
        note_burst: called with the seconds for which the lane took no event because it flushed a burst.
    """

    address: str
    edge: Literal["lane", "plain"] = "lane"
    workers: int = 64
    max_message_bytes: int = 64 << 20
    gzip: Gzip | None = None
    max_connections: int = 4096
    max_peer_connections: int = 0
    max_connection_calls: int = 2048
    max_header_bytes: int = 16 << 10
    min_ping_interval: float = 5.0
    max_unsent_bytes: int = 256 << 20
    max_connection_age: float = 0.0
    max_connection_age_grace: float = 0.0
    stream_lifetime: float = math.inf
    trailer: Callable[[], Metadata] | None = None
    note_burst: Callable[[float], None] | None = None

    @property
    def channel_arguments(self) -> list[tuple[str, int]]:
        """Return the arguments of gRPC's core."""
        # Without an age the core keeps each connection for ever.
        ages = {"age": self.max_connection_age, "age_grace": self.max_connection_age_grace}
        return [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.compression_enabled_algorithms_bitset", _ALL_ENCODINGS),
            ("grpc.per_message_decompression", 0),
            # More calls may wait for us than the core would hold: it ends them with CANCELLED, we with QUEUE_FULL.
            ("grpc.server.max_pending_requests", _MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            # Also a bound on calls that are opened and reset at once: further ones are refused while these are let go.
            ("grpc.max_concurrent_streams", self.max_connection_calls),
            ("grpc.max_metadata_size", self.max_header_bytes),  # from here on some are refused,
            ("grpc.absolute_max_metadata_size", self.max_header_bytes),  # from here on all
            ("grpc.server_handshake_timeout_ms", _milliseconds(_HANDSHAKE)),
            ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a share of the load
            # The core's own interval of 5 minutes, 2 hours without a call, would cut many clients off.
            ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(self.min_ping_interval)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", _milliseconds(_KEEPALIVE)),
            ("grpc.keepalive_timeout_ms", _milliseconds(_KEEPALIVE_TIMEOUT)),
            *[(f"grpc.max_connection_{name}_ms", _milliseconds(seconds)) for name, seconds in ages.items() if seconds],
        ]


class GrpcServer:
    """Serves an engine by gRPC.

    Args:
        options: how it listens.
        engine: runs the requests.
        health_status: sent by Health.Check and Watch.
        budget: bounds what streams have in flight.

    Attributes:
        edge_name: "lane" or "plain": the edge that is really used.
        streams: the calls of InferenceService.Stream.
    """

    def __init__(
        self, options: ServerOptions, engine: Engine, health_status: health.Health, budget: StreamBudget
    ) -> None:
        self._options = options
        self._engine = engine
        self._connections = Connections(options.max_connections, options.max_peer_connections)
        self._pool = CallPool(options.workers, "onnxserve-grpc")
        self._server = grpc.server(self._pool, options=options.channel_arguments)
        gzip = options.gzip
        codec = onnxserve_v1 if gzip is None else UnpackingCodec(onnxserve_v1, gzip)
        read = parse if gzip is None else gzip.parse
        public = PublicServer(self._server, self._pool, read)
        health_status.add_to(public)
        public.add(MODELS, ModelService(engine.table).methods)
        self._reflection = reflection.Reflection((INFERENCE, MODELS, health.SERVICE, reflection.SERVICE), read)
        deadlines, observer = engine.services.deadlines, engine.services.observer
        self._unsent = UnsentAnswers(options.max_unsent_bytes, self._connections.close_unread)
        budget.on_excess = self._unsent.make_room
        predict = Predict("Predict", codec, engine, self._unsent, observer)
        stream = StreamMethod(name="Stream", codec=codec, engine=engine, budget=budget, observer=observer)
        self.streams = Streams(stream, lifetime=options.stream_lifetime, watch=deadlines.watch)
        self.edge, self.edge_name = self._make_edge(
            {_PREDICT: predict, _CHECK: health_status.check},
            {_STREAM: self.streams.open, reflection.METHOD: self._reflection.open},
        )

    def start(self) -> int:
        """Listen; return the port, of which a Unix socket has none.

        Raises:
            ConfigurationError: the port cannot be had.
        """
        try:
            port: int = self._server.add_insecure_port(self._options.address)
        except RuntimeError as error:
            raise ConfigurationError(f"{self._options.address}: cannot listen there: {error}") from error
        self._engine.services.deadlines.subscribe(self.streams.expire)
        self._server.start()
        self.edge.start()
        if not self._options.address.startswith("unix:"):
            self._connections.start(port)
        return port

    def drain(self, timeout: float) -> None:
        """Refuse new calls and finish those in flight; after `timeout` seconds they are ended."""
        self.streams.stop()
        self._reflection.stop()
        self.refuse()
        self._server.stop(timeout + _STOP_TIMEOUT)  # returns at once; stop() shortens it
        if not self.edge.wait_drained(timeout):
            logger.warning("calls were still in flight after %.1f s; they are ended", timeout)
            self.streams.cut_off(_HANDING_OVER)
            self.streams.abort()

    def refuse(self) -> None:
        """Refuse new requests with UNAVAILABLE until nobody calls."""
        self._engine.drain()
        end, seen = time.monotonic() + _MAX_REFUSING, -1
        while (refused := self._engine.refused + self.streams.refused) != seen and time.monotonic() < end:
            seen = refused
            time.sleep(_QUIET)

    def stop(self, stop_models: Callable[[], None]) -> None:
        """End the calls that still run; after drain() none does. The models are stopped while calls can get replies."""
        stopped = self._server.stop(_WATCHERS_GRACE)
        stop_models()
        self._engine.services.deadlines.unsubscribe(self.streams.expire)
        self._connections.stop()
        if not (self.edge.stop() and stopped.wait(_STOP_TIMEOUT)):
            logger.error("some calls never got a reply; they are left behind")
        self._pool.shutdown()

    def _make_edge(
        self, methods: dict[str, Handler], streams: dict[str, StreamHandler]
    ) -> tuple[Edge, Literal["lane", "plain"]]:
        """Return the edge that the options ask for, or the plain one when the lane does not work with this grpcio."""
        options, flush, unsent = self._options, self._engine.flush, self._unsent
        if options.edge == "lane":
            try:
                from onnxserve_server.edge import lane, self_test

                self_test.run()
                edge = lane.Lane(
                    self._server,
                    methods,
                    streams,
                    flush,
                    unsent=unsent,
                    note_reset=self._connections.note_reset,
                    note_burst=options.note_burst,
                    trailer=options.trailer,
                )
            except Exception as error:
                logger.warning(
                    "grpcio %s does not carry the lane (%s): serving on the plain edge, slower", grpc.__version__, error
                )
            else:
                return edge, "lane"
        plain = PlainEdge(
            self._server,
            self._pool,
            methods,
            streams,
            flush,
            unsent=unsent,
            trailer=options.trailer,
            apart=(_CHECK,),
        )
        return plain, "plain"


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
