"""grpc.health.v1: for the process (""), for each service, and for each model as "model/<name>"."""

from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.HealthServicer):  # type: ignore[misc]  # the package ships no types
    """The package's servicer, with List, which the protocol has and the package's servicer has not."""

    def __init__(self) -> None:
        super().__init__()
        self._statuses: dict[str, int] = {}
        self.set("", NOT_SERVING)

    def set(self, service: str, status: int) -> None:
        """Set the status of a service and tell those who watch it."""
        super().set(service, status)
        self._statuses[service] = status

    def set_all(self, services: Iterable[str], status: int) -> None:
        """Set the status of several services."""
        for service in services:
            self.set(service, status)

    def List(
        self, request: health_pb2.HealthListRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthListResponse:
        """Return the status of every service."""
        statuses = {
            service: health_pb2.HealthCheckResponse(status=status) for service, status in self._statuses.copy().items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)
