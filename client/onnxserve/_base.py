"""The part that the blocking and the asyncio client share: everything but the waiting."""

import abc
import functools
import itertools
import math
import numbers
import secrets
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import grpc

from onnxserve import _counting
from onnxserve._call import PredictCall
from onnxserve._channel import Methods, Options, channel_options, target_uri
from onnxserve._coalescing import MIN_TIMEOUT, Coalescer
from onnxserve._forking import check_process, forks, in_children, keep
from onnxserve._joining import JoinedPart, Key, key_of
from onnxserve._prediction import Prediction
from onnxserve._proxy import proxy_hint
from onnxserve._retrying import Attempts, Failed, Failure, RetryPolicy
from onnxserve._sequence import SequenceProtocol, State
from onnxserve._waiting import Batch, Waiter
from onnxserve._wire import predict_request, stream_request
from onnxserve.errors import Cancelled, DeadlineExceeded, OnnxserveError, Unavailable, of_request
from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2

DEFAULT_TIMEOUT = 30.0
READY_TIMEOUT = 5.0

# The status codes of a health check that mean "not ready"; others mean that the check itself failed.
NOT_READY = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

# Those of a health check that no server has answered.
NOT_CONNECTED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})

_NO_TIMEOUT = 1e9  # seconds
_MAX_MESSAGE_BYTES = (1 << 31) - 1  # gRPC takes no larger options
_MAX_KEEPALIVE = 2_000_000  # seconds
PROBE_TIMEOUT = 0.05
"""Seconds for a health check that finds out why there is no connection; without one, it fails at once."""
CONNECTION_TIMEOUT = 2.0
"""Seconds for a health check that finds out whether a server is reached before a request is sent that broke."""


def _check_options(max_message_bytes: int, keepalive: float, load_balancing: str) -> None:
    if not isinstance(max_message_bytes, int) or not 0 < max_message_bytes <= _MAX_MESSAGE_BYTES:
        raise ValueError(
            f"max_message_bytes must be a whole number from 1 to {_MAX_MESSAGE_BYTES}, not {max_message_bytes!r}"
        )
    if not isinstance(keepalive, numbers.Real) or not 0 < keepalive <= _MAX_KEEPALIVE:
        raise ValueError(f"keepalive must be a number of seconds above 0, {_MAX_KEEPALIVE} at most, not {keepalive!r}")
    if not isinstance(load_balancing, str) or not load_balancing:
        raise ValueError(
            f"load_balancing must be the name of a gRPC policy, such as round_robin, not {load_balancing!r}"
        )


def closed() -> Cancelled:
    """Return the error of a call whose client is closed before it is sent, or while it waits."""
    return Cancelled(grpc.StatusCode.CANCELLED, "the client has been closed")


def timed_out(request_id: str) -> DeadlineExceeded:
    """Return the error of a call whose timeout passes while it waits for others."""
    return DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", request_id=request_id)


_clients: "weakref.WeakSet[BaseClient]" = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    for client in [*_clients]:
        keep(client._channel)


in_children(_leave_to_the_parent)


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
        """Make a client; the first call connects it.

        Args:
            target: "host:port" (all addresses of the host are used), or any gRPC name, such as "unix:/path" or
                "xds:///service".
            credentials: TLS credentials, such as grpc.ssl_channel_credentials(); None: no encryption.
            metadata: headers of every call, such as [("authorization", "Bearer ...")].
            max_message_bytes: the size limit of a request, and of a response.
            compression: the compression of requests; None by default: tensors seldom shrink, and servers take none
                unless they were started with --compression gzip.
            keepalive: seconds between pings while a call waits for its answer. Servers close connections that ping more
                often than they permit.
            retries: how often a call is sent again, from 0 to 4, that ended with CANCELLED, or with UNAVAILABLE and a
                delay after which to retry. Calls that a server refuses by name (it drains, or the model was stopped)
                and calls for which there is no connection go on trying until their timeout; a call whose connection
                broke is sent once more. 0: nothing is sent again, and without a connection calls fail at once.
            load_balancing: the gRPC policy that chooses among the target's addresses.
            coalesce: whether concurrent calls of predict() may be joined into one request. While four calls for a model
                are in flight, further ones whose rows have the same shape wait for them, at most 2 ms, and are sent as
                one request if the model is batched; the answer is split again. Each call keeps its own timeout,
                cancellation and error: if a joined request fails, or a new version of the model answers it, each call
                is sent alone. A lone caller never waits, nor does a call with a timeout below 0.1 s. The server counts,
                traces and logs joined requests, not their calls. A call with a request_id, or one that the program
                traces, is always sent alone. False: every call is sent alone.
            options: further gRPC channel options; they override those that follow from the other arguments. A service
                config among them may not have a retryPolicy.
        """
        _check_options(max_message_bytes, keepalive, load_balancing)
        self._policy = RetryPolicy(retries, target)
        self._target = target
        self._forks = forks()
        self._channel = self._open(
            target_uri(target),
            credentials,
            compression=compression,
            options=channel_options(
                max_message_bytes=max_message_bytes,
                keepalive=keepalive,
                load_balancing=load_balancing,
                options=options,
            ),
        )
        _clients.add(self)
        self._methods = Methods(self._channel)
        self._metadata = tuple(metadata)
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._closed = False
        self._coalesce = coalesce
        self._coalescer = Coalescer(self._send, self._ask, max_message_bytes)

    @abc.abstractmethod
    def _open(self, target: str, credentials: grpc.ChannelCredentials | None, **kwargs: Any) -> Any:
        """Open a channel of the kind that the client waits on."""

    @abc.abstractmethod
    def _send(self, batch: Batch) -> None:
        """Send joined requests; see Coalescer."""

    @abc.abstractmethod
    def _send_later(self, batch: Batch, seconds: float) -> None:
        """Send joined requests after so many seconds, or once the client is closed. Must not block."""

    @abc.abstractmethod
    def _ask(self, model: str, version: str | None) -> None:
        """Ask for the description of a model; see Coalescer."""

    @abc.abstractmethod
    def _make_waiter(self, key: Key, part: JoinedPart, deadline: float, request_id: str) -> Waiter:
        """Return a Waiter that waits as the client does."""

    def _key(self, call: PredictCall) -> Key | None:
        """Return the key by which a call is joined with others; None: it is sent alone."""
        return key_of(call) if self._coalesce and call.request_id is None else None

    def _enter(self, key: Key, call: PredictCall) -> Any:
        """Return a waiter of _make_waiter()'s kind; None: the call is to be sent at once, and counts as in flight."""
        coalescer, part = self._coalescer, None
        seconds = self._check(call.timeout)
        if call.timeout is None or call.timeout >= MIN_TIMEOUT:
            part = coalescer.offer(key, call.inputs)
        if part is None:
            coalescer.start(key)
            return None
        deadline = math.inf if seconds is None else monotonic() + seconds
        waiter = self._make_waiter(key, part, deadline, self._new_id())
        return waiter if coalescer.wait(waiter) else None

    def _take(self, waiter: Waiter) -> Prediction | None:
        """Return the answer to a call that has waited; None: the call is to be sent alone.

        Raises:
            OnnxserveError: the call failed, or its timeout has passed.
        """
        outcome = self._coalescer.leave(waiter)
        if outcome is None:
            refused = waiter.batch and waiter.batch.refused
            raise of_request(refused, waiter.request_id) if refused else timed_out(waiter.request_id)
        if isinstance(outcome, OnnxserveError):
            raise of_request(outcome, waiter.request_id)
        return outcome if isinstance(outcome, Prediction) else None

    def _answered(self, batch: Batch, response: inference_service_pb2.PredictResponse) -> None:
        """Give the calls of a joined request their parts of the answer."""
        self._policy.note_answer()
        self._coalescer.answered(batch, response)

    def _failed(self, batch: Batch, failed: Failed) -> None:
        """Send a joined request again that no server has run, or have its calls go on from its failure."""
        if failed.failure in (Failure.UNSTARTED, Failure.REFUSED) and not batch.abandoned:
            if batch.attempts is None:
                batch.attempts = Attempts(self._policy, batch.timeout)
            try:
                delay = batch.attempts.delay_after(failed)
            except OnnxserveError:
                failed = failed._replace(failure=Failure.FINAL)
            else:
                batch.refused = failed.error
                return self._send_later(batch, delay)
        return self._coalescer.failed(batch, failed)

    def _after_waiting(self, call: PredictCall, waiter: Waiter) -> PredictCall:
        """Return a call that has waited, to be sent alone: with the waiter's request_id and the rest of its timeout.

        Raises:
            DeadlineExceeded: nothing is left of the timeout.
        """
        left = waiter.time_left
        if left <= 0:
            raise timed_out(waiter.request_id)
        return replace(call, timeout=None if left == math.inf else left, request_id=waiter.request_id)

    def _failed_before(self, waiter: Waiter) -> Failed | None:
        """Return how the joined request failed that was the first attempt at a call; None: there was none."""
        if waiter.failed is None:
            return None
        return waiter.failed._replace(error=of_request(waiter.failed.error, waiter.request_id))

    def _unsent(self, probe: grpc.RpcError, request_id: str) -> Unavailable | None:
        """Return the error of a call whose timeout has passed, as a health check found out; None: there is a server."""
        if probe.code() is not grpc.StatusCode.UNAVAILABLE:
            return None
        message = f"no server was reached: {probe.details()}{proxy_hint(self._target)}"
        return Unavailable(grpc.StatusCode.UNAVAILABLE, message, request_id=request_id)

    def _new_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def _check(self, timeout: float | None) -> float | None:
        """Return the timeout to give to grpc, in seconds; None: no deadline.

        Raises:
            Cancelled: the client has been closed.
            RuntimeError: another process made the client.
            TypeError: the timeout is not a number.
            ValueError: the timeout is not above 0 seconds.
        """
        check_process(self._forks)
        if self._closed:
            raise closed()
        if type(timeout) is not float and not (timeout is None or isinstance(timeout, numbers.Real)):
            raise TypeError(f"timeout must be a number of seconds above 0, or None, not {timeout!r}")
        if timeout is None or timeout >= _NO_TIMEOUT:  # gRPC would take such a deadline for one in the past
            return None
        if timeout > 0:
            return float(timeout)  # grpc adds it to the time, which float32 knows to the minute
        raise ValueError(f"timeout must be a number of seconds above 0, or None, not {timeout}")

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

    def _protocol(self, call: PredictCall, *, state: State | None = None, keeps_state: bool = True) -> SequenceProtocol:
        """Return the protocol of a sequence of calls that differ in their inputs alone."""
        check_process(self._forks)
        encode = functools.partial(self._streamed, call)
        return SequenceProtocol(call.model, encode, state, self._policy, call.timeout, keeps_state=keeps_state)
