"""A gRPC server that runs functions."""

import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from google.protobuf import wrappers_pb2
from google.protobuf.message import Message

from onnxserve._channel import INFERENCE, SERVING
from onnxserve.errors import NotFound, OnnxserveError
from onnxserve.testing._models import Function, Model, model_message
from onnxserve.testing._requests import answer, read, run
from onnxserve.testing._status import abort
from onnxserve.testing._streams import Stream
from onnxserve.v1 import inference_service_pb2, model_service_pb2

_MAX_MESSAGE_BYTES = 64 << 20  # as the server's own default


class Server:
    """A test server that runs until close(), or until the end of its `with` block; see serve().

    Attributes:
        target: the address to give to a client, such as "127.0.0.1:40123".
    """

    def __init__(self, models: Mapping[str, Model], threads: int) -> None:
        """Start the server; see serve() for the arguments."""
        self._handlers = ThreadPoolExecutor(threads, thread_name_prefix="onnxserve-testing-call")
        self._functions = ThreadPoolExecutor(threads, thread_name_prefix="onnxserve-testing-function")
        options = [
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ]
        self._server = grpc.server(self._handlers, options=options)
        self._server.add_generic_rpc_handlers(_Services(models, self._functions).handlers())
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Cancel the calls in flight, wait for the functions that are still running, and free the port."""
        self._server.stop(None).wait()
        self._functions.shutdown(cancel_futures=True)
        self._handlers.shutdown()

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the server."""
        self.close()


def serve(models: Mapping[str, Function | Model], *, threads: int = 32) -> Server:
    """Start a server of functions in this process.

    A function raises an error of onnxserve to fail its request, such as InvalidArgument with `violations`: the caller
    gets the same error. Any other exception reaches the caller as Internal, and the log of "onnxserve.testing" with its
    traceback. A function that takes longer than the deadline goes on, but its caller gets DeadlineExceeded then;
    current_request() says how much time is left, and when nobody waits for the answer any more.

    Args:
        models: a function, or a Model, by model name.
        threads: the number of calls that may be in flight; functions run beside one another on as many threads.
    """
    named = {name: each if isinstance(each, Model) else Model(function=each) for name, each in models.items()}
    return Server(named, threads)


class _Services:
    """The methods of the protocol. `rpc` is the grpc.ServicerContext of a call."""

    def __init__(self, models: Mapping[str, Model], functions: ThreadPoolExecutor) -> None:
        self._models = models
        self._functions = functions

    def handlers(self) -> list[Any]:
        """Return the generic handlers to add to a grpc.Server."""
        inference, models = inference_service_pb2, model_service_pb2
        unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        services = {
            INFERENCE: {
                "Predict": unary(self._predict, inference.PredictRequest.FromString, _serialize),
                "Stream": streaming(self._stream, inference.StreamRequest.FromString, _serialize),
            },
            "onnxserve.v1.ModelService": {
                "ListModels": unary(self._list_models, models.ListModelsRequest.FromString, _serialize),
                "GetModel": unary(self._get_model, models.GetModelRequest.FromString, _serialize),
            },
            # Messages of the same fields as HealthCheckRequest and HealthCheckResponse; see onnxserve._channel.
            "grpc.health.v1.Health": {"Check": unary(self._check, wrappers_pb2.StringValue.FromString, _serialize)},
        }
        return [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]

    def _predict(
        self, message: inference_service_pb2.PredictRequest, rpc: Any
    ) -> inference_service_pb2.PredictResponse:
        try:
            model = self._find(message.model, message.version)
            request, inputs = read(message, rpc)
            return answer(run(model.begin(), inputs, request, self._functions), request, model.version)
        except OnnxserveError as error:
            abort(rpc, error, message.request_id)

    def _stream(
        self, messages: Iterator[inference_service_pb2.StreamRequest], rpc: Any
    ) -> Iterator[inference_service_pb2.StreamResponse]:
        stream = Stream(self._find, functools.partial(read, rpc=rpc), functools.partial(run, threads=self._functions))
        for message in messages:
            yield from stream.answers(message)

    def _list_models(self, *_: object) -> model_service_pb2.ListModelsResponse:
        return model_service_pb2.ListModelsResponse(
            models=[model_message(name, self._models[name]) for name in sorted(self._models)]
        )

    def _get_model(self, message: model_service_pb2.GetModelRequest, rpc: Any) -> model_service_pb2.GetModelResponse:
        try:
            model = self._find(message.model, message.version)
        except NotFound as error:
            abort(rpc, error)
        return model_service_pb2.GetModelResponse(model=model_message(message.model, model))

    def _check(self, service: wrappers_pb2.StringValue, rpc: Any) -> wrappers_pb2.Int32Value:
        if service.value not in {"", INFERENCE, *(f"model/{name}" for name in self._models)}:
            rpc.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {service.value!r}")
        return wrappers_pb2.Int32Value(value=SERVING)

    def _find(self, name: str, version: str) -> Model:
        model = self._models.get(name)
        if model is None:
            names = ", ".join(sorted(self._models)) or "none"
            raise _not_found(f"unknown model {name!r}; available models: {names}", name)
        if version not in {"", model.version}:
            raise _not_found(
                f"model {name!r} has no version {version!r}; available versions: {model.version}", f"{name}/{version}"
            )
        return model


def _not_found(message: str, resource: str) -> NotFound:
    return NotFound(grpc.StatusCode.NOT_FOUND, message, resource=resource)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
