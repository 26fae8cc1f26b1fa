"""grpc.health.v1: for the process (""), for each service, and for each model as "model/<name>"."""

import threading
from collections.abc import Callable, Iterable

import grpc
from grpc_health.v1 import health_pb2

from onnxserve_server.edge.calls import Call
from onnxserve_server.edge.messages import Parse, parse
from onnxserve_server.edge.public import PublicServer
from onnxserve_server.edge.status import Status, status_of
from onnxserve_server.errors import ServeError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health:
    """The statuses of the process, its services and its models.

    Check is a hot method of the edge: a probe that waited for one of the server's threads would fail when they are all
    taken, and the process be killed. The servicer of the package grpcio-health-checking is not used: it sends to those
    who watch while it holds the lock that the server's own thread needs to let one of them go, so that a load balancer
    that leaves at the wrong moment stops both (seen with 1.85.1).
    """

    def __init__(self, parse: Parse = parse) -> None:
        self._parse = parse
        self._statuses: dict[str, int] = {"": NOT_SERVING}
        self._watchers: dict[_Watcher, None] = {}
        self._lock = threading.Lock()  # of changes; not held while sending
        self._draining = False

    def set(self, services: Iterable[str], status: int) -> None:
        """Set the status of services and send it to their watchers; after drain() nothing changes."""
        changed = dict.fromkeys(services, status)
        with self._lock:
            if self._draining:
                return
            self._statuses.update(changed)  # before sending: a watcher may ask by Check
        self._send()

    def ready(self) -> bool:
        """Whether the process serves."""
        return bool(self._statuses[""] == SERVING)

    def drain(self) -> None:
        """Say NOT_SERVING of everything, for good."""
        with self._lock:
            self._draining = True
            self._statuses.update(dict.fromkeys(self._statuses, NOT_SERVING))
        self._send()

    def _send(self) -> None:
        """Have each watcher send what it has not sent yet."""
        for watcher in list(self._watchers):
            watcher.update()

    def add_to(self, server: PublicServer) -> None:
        """Serve Watch and List; check() is for the edge."""
        server.add(SERVICE, {"List": (health_pb2.HealthListRequest, self.list)})
        server.add_watch(SERVICE, "Watch", health_pb2.HealthCheckRequest, self.watch)

    def check(self, call: Call, message: bytes) -> None:
        """Answer a Check at once, on the thread that brings it."""
        try:
            service = self._parse(health_pb2.HealthCheckRequest, message).service
        except ServeError as error:
            call.fail(status_of(error))
            return
        status = self._statuses.get(service)
        if status is None:
            call.fail(Status(grpc.StatusCode.NOT_FOUND, "unknown service", ()))
        else:
            call.reply(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    def watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send: Callable[[bytes | None], None],
    ) -> None:
        """Send the status of a service now, and whenever it changes. No thread is held in between."""
        watcher = _Watcher(lambda: self._statuses.get(request.service, _SERVICE_UNKNOWN), send)
        self._watchers[watcher] = None
        watcher.update()

        def leave() -> None:
            self._watchers.pop(watcher, None)
            send(None)

        if not context.add_callback(leave):
            leave()

    def list(self, _: health_pb2.HealthListRequest) -> health_pb2.HealthListResponse:
        """Return the status of every service."""
        statuses = {
            service: health_pb2.HealthCheckResponse(status=status) for service, status in self._statuses.copy().items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)


class _Watcher:
    """One call of Watch. Sending waits for the server's own thread, which must therefore never wait for this lock."""

    def __init__(self, status: Callable[[], int], send: Callable[[bytes], None]) -> None:
        self._status = status
        self._send = send
        self._lock = threading.Lock()
        self._sent: int | None = None

    def update(self) -> None:
        """Send the status if it differs from the one last sent."""
        with self._lock:  # so that the newest status is the last to be sent
            status = self._status()
            if status != self._sent:
                self._sent = status
                self._send(health_pb2.HealthCheckResponse(status=status).SerializeToString())
