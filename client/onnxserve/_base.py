"""What the blocking and the asyncio client share: everything but the waiting."""

import abc
import functools
import itertools
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import grpc

from onnxserve import _counting
from onnxserve._call import PredictCall
from onnxserve._channel import Methods, Options, channel_options, target_uri
from onnxserve._coalescing import LEAST_TIMEOUT, Batch, Coalescer, Member
from onnxserve._joining import Key, Share, key_of
from onnxserve._prediction import Prediction
from onnxserve._sequence import Course, State
from onnxserve._wire import predict_request, stream_request
from onnxserve.errors import Cancelled, DeadlineExceeded, OnnxserveError, of_request
from onnxserve.tensor import Array

DEFAULT_TIMEOUT = 30.0
READY_TIMEOUT = 5.0

# What a health check can end with that means "not ready", not "cannot tell".
NOT_READY = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

_NO_TIMEOUT = 1e9  # seconds


def closed() -> Cancelled:
    """Return what a call raises when the client is closed before or while it waits."""
    return Cancelled(grpc.StatusCode.CANCELLED, "the client has been closed")


def timed_out(request_id: str) -> DeadlineExceeded:
    """Return what a call raises whose timeout passes while it waits for others."""
    return DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", request_id=request_id)


class BaseClient(abc.ABC):
    """A channel to a server, and how requests are made for it."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        max_message_bytes: int = 64 * 1024 * 1024,
        compression: grpc.Compression | None = None,
        keepalive: float = 60.0,
        retries: int = 3,
        load_balancing: str = "round_robin",
        coalesce: bool = True,
        options: Options = (),
    ) -> None:
        """Make a client; it connects with its first call.

        Args:
            target: "host:port", of which every address is used, or any gRPC name: "unix:/path", "xds:///service".
            credentials: for TLS, such as grpc.ssl_channel_credentials(); None: no encryption.
            metadata: sent with every call, such as [("authorization", "Bearer ...")].
            max_message_bytes: the largest request and the largest response.
            compression: of requests; none by default, as tensors seldom shrink.
            keepalive: seconds between pings while a call waits for its answer; servers end connections that ping
                more often than they permit.
            retries: how often a call that ended with UNAVAILABLE is tried again, at most 4; 0: never. They end with
                the call's timeout.
            load_balancing: the gRPC policy that chooses among the target's addresses.
            coalesce: whether concurrent calls of predict() may travel together. While four for a model are out, further
                ones with rows of the same shape wait for them, 2 ms at most, and go as one request, where the model is
                batched; its answer is split again. Each keeps its own timeout, cancellation and error: when a joined
                request fails, or a new version of the model answers it, each call is sent alone. So a lone caller never
                waits, nor a call with a timeout below 0.1 s. What the server counts, traces and logs are joined
                requests, not their calls; a call that is given a request_id, or that the program traces, goes alone.
                False: all go alone.
            options: further gRPC channel options; they win over those that follow from the other arguments.
        """
        self._channel = self._open(
            target_uri(target),
            credentials,
            compression=compression,
            options=channel_options(
                max_message_bytes=max_message_bytes,
                keepalive=keepalive,
                retries=retries,
                load_balancing=load_balancing,
                options=options,
            ),
        )
        self._methods = Methods(self._channel)
        self._metadata = tuple(metadata)
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._closed = False
        self._retries = retries
        self._coalesce = coalesce
        self._coalescer = Coalescer(self._send, self._ask, max_message_bytes)

    @abc.abstractmethod
    def _open(self, target: str, credentials: grpc.ChannelCredentials | None, **kwargs: Any) -> Any:
        """Open a channel of the kind that the client waits on."""

    @abc.abstractmethod
    def _send(self, batch: Batch) -> None:
        """Send joined requests; see Coalescer."""

    @abc.abstractmethod
    def _ask(self, model: str, version: str | None) -> None:
        """Ask for the description of a model; see Coalescer."""

    @abc.abstractmethod
    def _member(self, key: Key, share: Share, deadline: float, request_id: str) -> Member:
        """Return a Member that waits as the client does."""

    def _key(self, call: PredictCall) -> Key | None:
        """Return what a call must have in common with others to travel with them; None: it goes alone."""
        return key_of(call) if self._coalesce and call.request_id is None else None

    def _enter(self, key: Key, call: PredictCall) -> Any:
        """Return a call as a member, of _member()'s kind, that waits for others; None: it goes at once, counted."""
        coalescer, share = self._coalescer, None
        if call.timeout is None or call.timeout >= LEAST_TIMEOUT:
            share = coalescer.offer(key, call.inputs)
        if share is None:
            coalescer.start(key)
            return None
        seconds = self._check(call.timeout)
        deadline = math.inf if seconds is None else monotonic() + seconds
        member = self._member(key, share, deadline, self._new_id())
        return member if coalescer.wait(member) else None

    def _take(self, member: Member) -> Prediction | None:
        """Return the answer to a call that has waited; None: it is to be sent alone.

        Raises:
            OnnxserveError: the call failed, or its timeout has passed.
        """
        outcome = self._coalescer.leave(member)
        if outcome is None:
            raise timed_out(member.request_id)
        if isinstance(outcome, OnnxserveError):
            raise of_request(outcome, member.request_id)
        return outcome if isinstance(outcome, Prediction) else None

    def _after_waiting(self, call: PredictCall, member: Member) -> PredictCall:
        """Return a call that has waited as it is to be sent: under the member's name, with what its timeout has left.

        Raises:
            DeadlineExceeded: nothing is left of the timeout.
        """
        left = member.time_left
        if left <= 0:
            raise timed_out(member.request_id)
        return replace(call, timeout=None if left == math.inf else left, request_id=member.request_id)

    def _new_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def _check(self, timeout: float | None) -> float | None:
        """Return the deadline to set for a timeout, before each call.

        Raises:
            Cancelled: the client has been closed.
            ValueError: the timeout is not above 0.
        """
        if self._closed:
            raise closed()
        if timeout is None or timeout >= _NO_TIMEOUT:  # gRPC would take such a deadline for one in the past
            return None
        if timeout > 0:
            return float(timeout)  # grpc adds it to the time, which float32 knows to the minute
        raise ValueError(f"timeout is a number of seconds above 0, or None, not {timeout}")

    def _streamed(self, call: PredictCall, inputs: Mapping[str, Array]) -> tuple[bytes, str]:
        """Return a call for some inputs as a serialized PredictRequest for a stream, and its new request_id."""
        _counting.count("Stream", call.model)
        request_id = self._new_id()
        message_timeout = self._check(call.timeout)
        return predict_request(call.with_inputs(inputs), request_id, message_timeout=message_timeout), request_id

    def _stream_request(self, call: PredictCall, inputs: Mapping[str, Array]) -> tuple[str, bytes]:
        """Return the new request_id of a call for some inputs, and the serialized StreamRequest that holds it."""
        request, request_id = self._streamed(call, inputs)
        return request_id, stream_request(request)

    def _course(self, call: PredictCall, *, state: State | None = None, keeps_state: bool = True) -> Course:
        """Return the protocol of a sequence of calls that differ in their inputs alone."""
        encode = functools.partial(self._streamed, call)
        return Course(call.model, encode, state, self._retries, keeps_state=keeps_state)
