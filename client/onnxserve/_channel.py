"""What both clients ask of grpc: the channel, its options and its methods."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf import wrappers_pb2

from onnxserve.v1 import inference_service_pb2, model_service_pb2

Options = Sequence[tuple[str, Any]]

INFERENCE = "onnxserve.v1.InferenceService"
"""The service that answers requests."""

SERVING = 1
"""grpc.health.v1's ServingStatus of what takes requests."""

_SCHEME = re.compile(r"(?:dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|google-c2p):|[^/]+://")
_KEEPALIVE_TIMEOUT_MS = 20_000
_MAX_ATTEMPTS = 5  # grpc allows no more
# A name is looked up again when a connection ends, but by default at most every 30 s: within that time all replicas may
# have been replaced. It is to be less than a call waits for its last retry.
_LOOKUP_INTERVAL_MS = 200


def target_uri(target: str) -> str:
    """Return "host:port" as a DNS name, of which every address is used; what has a scheme stays as it is.

    Raises:
        ValueError: it is empty, or the address of a web page.
    """
    if not target or target.startswith(("http:", "https:")):
        raise ValueError(
            f"{target!r} is no target: give HOST:PORT, such as localhost:8500, or a name with gRPC's scheme"
        )
    return target if _SCHEME.match(target) else f"dns:///{target}"


def service_config(*, retries: int, load_balancing: str) -> str:
    """Return the gRPC service config as JSON.

    Health checks are not retried: their answer is wanted as it is now.
    """
    calls: dict[str, Any] = {"name": [{"service": INFERENCE}, {"service": "onnxserve.v1.ModelService"}]}
    if retries > 0:
        calls["retryPolicy"] = {
            "maxAttempts": min(retries + 1, _MAX_ATTEMPTS),
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            # A server that stops ends what has reached it and was not begun with CANCELLED: grpc's core does.
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
        }
    return json.dumps(
        {
            "loadBalancingConfig": [{load_balancing: {}}],
            "methodConfig": [calls],
            # Each failure takes a token, each success gives one back; no retries while half are gone, so that servers
            # in trouble are not asked several times by everyone. One of two replicas that stops does not use them up.
            # A ratio without a decimal point grpc's core (1.85.1) takes for 0.
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 1.0},
        }
    )


def channel_options(
    *, max_message_bytes: int, keepalive: float, retries: int, load_balancing: str, options: Options
) -> list[tuple[str, Any]]:
    """Return the channel's options; the caller's own come last and win."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", int(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.dns_min_time_between_resolutions_ms", _LOOKUP_INTERVAL_MS),
        ("grpc.service_config", service_config(retries=retries, load_balancing=load_balancing)),
        # A call whose request does not fit in here is never retried, and the default is 256 KiB.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        *options,
    ]


class Methods:
    """The callables of a channel of either kind, made once.

    Attributes:
        predict: takes a serialized PredictRequest, gives a PredictResponse.
        stream: takes an iterator of serialized StreamRequests, gives an iterator of StreamResponses.
        list_models: takes a ListModelsRequest, gives a ListModelsResponse.
        get_model: takes a GetModelRequest, gives a GetModelResponse.
        check: takes the name of a service as StringValue, gives grpc.health.v1's ServingStatus as Int32Value. These
            two have the fields of HealthCheckRequest and HealthCheckResponse, and spare the client a package.
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
