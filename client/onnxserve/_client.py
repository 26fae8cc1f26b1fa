"""The blocking client."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import grpc

from onnxserve._base import DEFAULT_TIMEOUT, NOT_READY, READY_TIMEOUT, BaseClient
from onnxserve._channel import SERVING, health_request
from onnxserve._models import ModelInfo, model_info
from onnxserve._prediction import Prediction
from onnxserve.errors import OnnxserveError, from_rpc_error
from onnxserve.tensor import Array
from onnxserve.v1 import model_service_pb2


class Client(BaseClient):
    """Calls a server and waits for the answers. Safe to share between threads; make one and keep it.

    Every call raises a subclass of OnnxserveError when it fails. Use the client in a `with` statement, or close it.
    """

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        priority: int = 0,
        request_id: str | None = None,
    ) -> Prediction:
        """Run a model once.

        Args:
            model: its name.
            inputs: an array for each input of the model, of the model's own dtype: values are sent as they are.
            outputs: the names of the outputs wanted; None: all.
            version: the version to run; None: the one that the server prefers, its newest.
            timeout: seconds for everything, retries included; the server does not begin what it cannot finish by
                then. None: no limit.
            priority: from -10 to 10; of requests that wait, the higher go first.
            request_id: the request's name in errors and in the server's log; None: a new one.

        Raises:
            TypeError: an input that is not a numpy array, or of a type that has no counterpart on the wire.
            OnnxserveError: the call failed.
        """
        request, request_id = self._request(
            model, inputs, outputs=outputs, version=version, priority=priority, request_id=request_id
        )
        return Prediction(self._call(self._methods.predict, request, timeout, request_id))

    def models(self, *, timeout: float | None = DEFAULT_TIMEOUT) -> list[ModelInfo]:
        """Return every version of every model, by name, then version, oldest first."""
        response = self._call(self._methods.list_models, model_service_pb2.ListModelsRequest(), timeout)
        return [*map(model_info, response.models)]

    def model(self, name: str, version: str | None = None, *, timeout: float | None = DEFAULT_TIMEOUT) -> ModelInfo:
        """Return one version of a model; None: the one that predict would use."""
        request = model_service_pb2.GetModelRequest(model=name, version=version)
        return model_info(self._call(self._methods.get_model, request, timeout).model)

    def ready(self, model: str | None = None, *, timeout: float | None = READY_TIMEOUT) -> bool:
        """Return whether the server, or one of its models, takes requests now; False when it cannot be reached."""
        try:
            return bool(self._call(self._methods.check, health_request(model), timeout).value == SERVING)
        except OnnxserveError as error:
            if error.code in NOT_READY:
                return False
            raise

    def close(self) -> None:
        """Close the connections; calls that still wait are cancelled."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    def _open(self, target: str, credentials: grpc.ChannelCredentials | None, **kwargs: Any) -> Any:
        if credentials is None:
            return grpc.insecure_channel(target, **kwargs)
        return grpc.secure_channel(target, credentials, **kwargs)

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None, request_id: str = "") -> Any:
        try:
            return method(request, timeout=self._check(timeout), metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error, request_id) from error
