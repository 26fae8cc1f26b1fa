"""The gRPC channel of both clients: its options and its methods."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf import wrappers_pb2

from onnxserve.v1 import inference_service_pb2, model_service_pb2

Options = Sequence[tuple[str, Any]]

INFERENCE = "onnxserve.v1.InferenceService"
"""The name of the service that runs models."""

SERVING = 1
"""The ServingStatus of grpc.health.v1 for a service that accepts requests."""

_SCHEME = re.compile(r"(?:dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|google-c2p):|[^/]+://")
_SERVICE_CONFIG = "grpc.service_config"
_KEEPALIVE_TIMEOUT_MS = 20_000
# A name is looked up again when a connection ends, but by default at most every 30 s, in which all replicas may have
# been replaced. The interval must be shorter than the time until a call's last retry.
_LOOKUP_INTERVAL_MS = 200
# By default up to two minutes pass until gRPC tries again to connect to a server that was away.
_MIN_RECONNECT_MS, _MAX_RECONNECT_MS = 100, 2000


def target_uri(target: str) -> str:
    """Return "host:port" as a DNS name, all of whose addresses are used; a target with a scheme is returned unchanged.

    Raises:
        ValueError: the target is empty, or an HTTP URL.
    """
    if not target or target.startswith(("http:", "https:")):
        raise ValueError(
            f"not a valid target: {target!r}; expected HOST:PORT, such as localhost:8500, or a gRPC name, such as "
            f"dns:///models:8500"
        )
    return target if _SCHEME.match(target) else f"dns:///{target}"


def channel_options(
    *, max_message_bytes: int, keepalive: float, load_balancing: str, options: Options
) -> list[tuple[str, Any]]:
    """Return the channel's options, each once, for gRPC takes the first of a name; the caller's take precedence.

    Raises:
        ValueError: the caller's service config has a retryPolicy.
    """
    own = dict(options)
    if "retryPolicy" in str(own.get(_SERVICE_CONFIG)):
        raise ValueError(
            f"the service config in options has a retryPolicy, which would carry a request that ends its server to "
            f"further ones: leave it out of {_SERVICE_CONFIG}; the client's argument `retries` takes its place"
        )
    usual = {
        "grpc.max_send_message_length": max_message_bytes,
        "grpc.max_receive_message_length": max_message_bytes,
        "grpc.keepalive_time_ms": int(keepalive * 1000),
        "grpc.keepalive_timeout_ms": _KEEPALIVE_TIMEOUT_MS,
        "grpc.keepalive_permit_without_calls": 0,
        "grpc.dns_min_time_between_resolutions_ms": _LOOKUP_INTERVAL_MS,
        "grpc.initial_reconnect_backoff_ms": _MIN_RECONNECT_MS,
        "grpc.max_reconnect_backoff_ms": _MAX_RECONNECT_MS,
        # It has no retryPolicy: gRPC cannot tell a server that refuses from one that the request has ended.
        _SERVICE_CONFIG: json.dumps({"loadBalancingConfig": [{load_balancing: {}}]}),
        # gRPC itself sends again the calls that no server has seen, unless the request is larger than this, and the
        # default is 256 KiB.
        "grpc.per_rpc_retry_buffer_size": max_message_bytes,
    }
    return [*(usual | own).items()]


class Methods:
    """The methods of a channel, blocking or asyncio, made once.

    Attributes:
        predict: takes a serialized PredictRequest, returns a PredictResponse.
        stream: takes an iterator of serialized StreamRequests, returns an iterator of StreamResponses.
        list_models: takes a ListModelsRequest, returns a ListModelsResponse.
        get_model: takes a GetModelRequest, returns a GetModelResponse.
        check: takes the name of a service as StringValue, returns grpc.health.v1's ServingStatus as Int32Value. The two
            have the fields of HealthCheckRequest and HealthCheckResponse, and spare the client a package.
    """

    def __init__(self, channel: Any) -> None:
        """Bind the methods to a channel."""
        models, inference = model_service_pb2, inference_service_pb2
        self.predict: Any = channel.unary_unary(f"/{INFERENCE}/Predict", None, inference.PredictResponse.FromString)
        self.stream: Callable[..., Any] = channel.stream_stream(
            f"/{INFERENCE}/Stream", None, inference.StreamResponse.FromString
        )
        self.list_models: Callable[..., Any] = channel.unary_unary(
            "/onnxserve.v1.ModelService/ListModels",
            models.ListModelsRequest.SerializeToString,
            models.ListModelsResponse.FromString,
        )
        self.get_model: Any = channel.unary_unary(
            "/onnxserve.v1.ModelService/GetModel",
            models.GetModelRequest.SerializeToString,
            models.GetModelResponse.FromString,
        )
        self.check: Callable[..., Any] = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            wrappers_pb2.StringValue.SerializeToString,
            wrappers_pb2.Int32Value.FromString,
        )


def health_request(model: str | None) -> wrappers_pb2.StringValue:
    """Return the health check's request for a model, or for the server as a whole."""
    return wrappers_pb2.StringValue(value=f"model/{model}" if model else "")
