"""Methods that are seldom called, as handlers of the public grpc.server: they take any bytes."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message

from onnxserve_server.edge.messages import Parse
from onnxserve_server.edge.pool import CallPool
from onnxserve_server.edge.status import status_of, unexpected
from onnxserve_server.errors import ServeError

Methods = Mapping[str, tuple[type[Message], Callable[[Any], Message]]]
"""By name: the type of a request, and the function that takes one and returns the response or raises a ServeError."""


class PublicServer:
    """Adds methods to a grpc.server.

    Args:
        server: the server.
        pool: its threads.
        parse: reads the requests.
    """

    def __init__(self, server: grpc.Server, pool: CallPool, parse: Parse) -> None:
        self._server = server
        self._pool = pool
        self._parse = parse

    def add(self, service: str, methods: Methods) -> None:
        """Serve unary methods of a service."""
        unary = grpc.unary_unary_rpc_method_handler
        handlers = {name: unary(self._behaviour(kind, function)) for name, (kind, function) in methods.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    def add_watch(self, service: str, name: str, kind: type[Message], watch: Callable[..., None]) -> None:
        """Serve a method that goes on answering. `watch` gets request, context and what sends; it must not block."""

        def behaviour(message: bytes, context: grpc.ServicerContext, send: Callable[[bytes | None], None]) -> None:
            self._pool.begin()
            try:
                request = self._parse(kind, message)
            except ServeError as error:
                _set_status(context, error)
                send(None)
            else:
                watch(request, context, send)

        behaviour.experimental_non_blocking = True  # type: ignore[attr-defined]  # for grpcio: no iterator comes
        handlers = {name: grpc.unary_stream_rpc_method_handler(behaviour)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    def _behaviour(
        self, kind: type[Message], function: Callable[[Any], Message]
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def serve(message: bytes, context: grpc.ServicerContext) -> bytes:
            with self._pool.running():
                try:
                    return function(self._parse(kind, message)).SerializeToString()
                except ServeError as error:
                    failure = error
                except Exception:
                    failure = unexpected("")
            _abort(context, failure)

        return serve


def _set_status(context: grpc.ServicerContext, error: ServeError) -> None:
    status = status_of(error)
    context.set_code(status.code)
    context.set_details(status.details)
    context.set_trailing_metadata(tuple(status.trailing_metadata))


def _abort(context: grpc.ServicerContext, error: ServeError) -> NoReturn:
    status = status_of(error)
    context.set_trailing_metadata(tuple(status.trailing_metadata))
    context.abort(status.code, status.details)
    raise AssertionError("abort() raises")
