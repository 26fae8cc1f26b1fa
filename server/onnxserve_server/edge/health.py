"""grpc.health.v1: for the process (""), for each service, and for each model as "model/<name>"."""

from collections.abc import Iterable

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from onnxserve_server.edge.predict import Call
from onnxserve_server.edge.status import Status

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health(health.HealthServicer):  # type: ignore[misc]  # the package ships no types
    """The package's servicer, with List, which the protocol has and it has not, and with Check as a hot method.

    A probe that waited for one of the server's threads would fail when they are all taken, and the process be killed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._statuses: dict[str, int] = {}
        self.set("", NOT_SERVING)

    def set(self, service: str, status: int) -> None:
        """Set the status of a service and tell those who watch it."""
        self._statuses[service] = status  # first: who is told by Watch may ask by Check at once
        super().set(service, status)

    def set_all(self, services: Iterable[str], status: int) -> None:
        """Set the status of several services."""
        for service in services:
            self.set(service, status)

    def add_to(self, server: grpc.Server) -> None:
        """Serve Watch and List; check() is for the edge."""
        handlers = {
            "Watch": grpc.unary_stream_rpc_method_handler(
                self.Watch,
                request_deserializer=health_pb2.HealthCheckRequest.FromString,
                response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
            ),
            "List": grpc.unary_unary_rpc_method_handler(
                self.List,
                request_deserializer=health_pb2.HealthListRequest.FromString,
                response_serializer=health_pb2.HealthListResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def check(self, call: Call, message: bytes) -> None:
        """Answer a Check at once, on the thread that brings it."""
        try:
            service = health_pb2.HealthCheckRequest.FromString(message).service
        except DecodeError:
            call.fail(Status(grpc.StatusCode.INVALID_ARGUMENT, "the message is no HealthCheckRequest", ()))
            return
        status = self._statuses.get(service)
        if status is None:
            call.fail(Status(grpc.StatusCode.NOT_FOUND, "there is no such service", ()))
        else:
            call.reply(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    def List(
        self, request: health_pb2.HealthListRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthListResponse:
        """Return the status of every service."""
        statuses = {
            service: health_pb2.HealthCheckResponse(status=status) for service, status in self._statuses.copy().items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)
