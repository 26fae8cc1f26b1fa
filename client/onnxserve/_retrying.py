"""Which failed calls are sent again, and when.

Calls wait for a connection (gRPC's wait_for_ready), until their timeout. So UNAVAILABLE means that a call was on a
connection, in one of four ways:

- The server's gRPC never started it (REFUSED_STREAM): too many calls were open on the connection, of which gRPC's core
  counts those too that have just ended. It is sent again within the call's timeout, whatever the client's `retries`.
- A server refused it: it says why (ErrorInfo), and has not run it. It is sent again within the call's timeout.
- Something refused it that does not say why: a server that closes (CANCELLED), or one that names a delay
  (grpc-retry-pushback-ms). It is sent again, but not more often than the client's `retries`.
- The connection broke while the call was served, and nobody knows why: perhaps the request itself ended the server. It
  is sent once more, and such requests take turns, so that one that ends servers does not hit the others again.
"""

import enum
import random
import re
from math import inf
from time import monotonic
from typing import NamedTuple

import grpc

from onnxserve._proxy import proxy_hint
from onnxserve.errors import OnnxserveError, ServersBroke, from_rpc_error

MAX_RETRIES = 4

_FIRST_DELAY, _MAX_DELAY = 0.1, 2.0  # seconds
# Programs that lost the same server send their requests again at different times within this many seconds.
_MAX_BREAK_DELAY = 0.3
_MAX_TOKENS = 100
_MAX_DIGITS = 9  # of the milliseconds that a server asks for; of more it is not asked again
_LONG = 10  # failures in a row, after which the delay has reached its limit
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_REFUSED_STREAM = re.compile(r"RST_STREAM with error code 7\b")  # gRPC has no other sign of it
_FIRST_UNSTARTED_DELAY = 0.02  # seconds: there is room once some of the client's other calls are answered


class Failure(enum.Enum):
    """How a call failed, as far as it matters for sending it again."""

    UNSTARTED = enum.auto()
    """A server's gRPC has not started it: too many calls are open on the connection."""
    REFUSED = enum.auto()
    """A server refused it and says why."""
    DECLINED = enum.auto()
    """Something refused it without saying why."""
    BROKE = enum.auto()
    """The connection ended while the call was served."""
    FINAL = enum.auto()
    """It is not to be sent again."""


class Failed(NamedTuple):
    """A call that failed."""

    error: OnnxserveError
    """What its caller is to get if it is not sent again."""
    failure: Failure
    asked: float | None
    """The seconds after which the server asks for a retry; None: it does not say."""


class RetryPolicy:
    """What all calls of a client share: whether and how often they are sent again.

    Each break and each refusal takes a token, each answer gives one back. While half of the tokens are gone, broken
    requests are not sent again and refused ones wait for the longest delay, so that clients do not multiply the load of
    servers in trouble. One replica of two that stops does not use up the tokens.

    Attributes:
        retries: the client's argument; 0: nothing is sent again, and calls do not wait for a connection.
        waits: whether calls wait for a connection.
        answers: the number of answers so far.
    """

    def __init__(self, retries: int, target: str = "") -> None:
        """Start with all tokens; `target`: where the client connects to.

        Raises:
            ValueError: `retries` is out of range.
        """
        if not isinstance(retries, int) or isinstance(retries, bool) or not 0 <= retries <= MAX_RETRIES:
            raise ValueError(f"retries must be a whole number from 0 to {MAX_RETRIES}, not {retries!r}")
        self.retries = retries
        self.waits = retries > 0
        self.answers = 0
        self._target = target
        self._tokens = _MAX_TOKENS

    @property
    def exhausted(self) -> bool:
        """Whether half of the tokens are gone."""
        return self._tokens <= _MAX_TOKENS // 2

    def note_answer(self) -> None:
        """Note that a server has answered; two threads at once may count as one."""
        self.answers += 1
        if self._tokens < _MAX_TOKENS:
            self._tokens += 1

    def judge(self, error: grpc.RpcError, request_id: str = "") -> Failed:
        """Return how a call failed that grpc or grpc.aio raised an error for."""
        failed = from_rpc_error(error, request_id)
        failed.__cause__ = error
        if failed.code is grpc.StatusCode.UNAVAILABLE and not failed.reason:
            failed.message += proxy_hint(self._target)
        asked = _pushback(error)
        failure = _failure_of(error, failed.reason, asked)
        if not self.retries and failure is not Failure.UNSTARTED:
            failure = Failure.FINAL
        if failure in (Failure.BROKE, Failure.REFUSED):
            self._tokens = max(0, self._tokens - 1)
        return Failed(failed, failure, failed.retry_delay if asked is None else asked)


class Attempts:
    """The attempts at one request.

    Attributes:
        broke: whether a connection broke while a server served the request.
    """

    __slots__ = ("_answers", "_deadline", "_policy", "_refusals", "broke")

    def __init__(self, policy: RetryPolicy, timeout: float | None, *, broke: bool = False) -> None:
        """Begin now; `timeout` in seconds, None for none."""
        self.broke = broke
        self._deadline = inf if timeout is None else monotonic() + timeout
        self._policy = policy
        self._answers = policy.answers
        self._refusals = 0

    @property
    def time_left(self) -> float:
        """Seconds until the timeout is over: inf for never, never below 0."""
        return max(0.0, self._deadline - monotonic())

    @property
    def timeout(self) -> float | None:
        """The rest of the timeout, above 0, as grpc takes it; None: there is none."""
        return None if self._deadline == inf else max(0.001, self._deadline - monotonic())

    def may_be_unsent(self, error: grpc.RpcError) -> bool:
        """Whether the timeout may have passed without a connection: no server has answered the client meanwhile."""
        return (
            error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            and self._policy.waits
            and self._policy.answers == self._answers
            and not error.trailing_metadata()
        )

    def delay_after(self, failed: Failed) -> float:
        """Return the seconds to wait before the request is sent again.

        Raises:
            OnnxserveError: it is not sent again: the call's error, or ServersBroke.
        """
        delay = None
        if failed.failure is Failure.BROKE:
            delay = self._after_break(failed.error)
        elif failed.failure is Failure.UNSTARTED:
            self._refusals += 1
            delay = retry_delay(self._refusals, _FIRST_UNSTARTED_DELAY)
        elif failed.failure is not Failure.FINAL:
            delay = self._after_refusal(failed)
        if delay is None or delay >= self.time_left:
            raise failed.error
        return delay

    def _after_break(self, error: OnnxserveError) -> float | None:
        if self.broke:
            raise servers_broke(error) from error
        self.broke = True
        if self._policy.exhausted:
            return None
        return random.uniform(0, min(_MAX_BREAK_DELAY, self.time_left / 2))  # noqa: S311

    def _after_refusal(self, failed: Failed) -> float | None:
        self._refusals += 1
        if failed.failure is Failure.DECLINED and self._refusals > self._policy.retries:
            return None
        return retry_delay(_LONG if self._policy.exhausted else self._refusals, failed.asked)


def is_broken(error: grpc.RpcError) -> bool:
    """Whether a call ended because its connection or its server ended."""
    return error.code() is grpc.StatusCode.UNAVAILABLE or is_write_error(error)


def is_write_error(error: grpc.RpcError) -> bool:
    """Whether grpc.aio (1.85.1) has raised an error for a write to a call that has ended; see own_error()."""
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == "Internal error from Core"


def _failure_of(error: grpc.RpcError, reason: str, asked: float | None) -> Failure:
    code = error.code()
    if asked is not None and asked < 0:
        return Failure.FINAL
    if code is grpc.StatusCode.CANCELLED:
        # grpc's core ends with it the calls that reached a stopping server and were not started.
        return Failure.DECLINED
    if not is_broken(error):
        return Failure.FINAL
    if reason:
        return Failure.REFUSED
    if _REFUSED_STREAM.search(error.details() or ""):
        return Failure.UNSTARTED
    return Failure.BROKE if asked is None else Failure.DECLINED


def _pushback(error: grpc.RpcError) -> float | None:
    """Return the seconds after which a server asks for a retry, below 0 if it asks for none; None: it does not say."""
    for key, value in error.trailing_metadata() or ():
        if key == _PUSHBACK_KEY:
            return int(value) / 1000 if value.isdecimal() and len(value) <= _MAX_DIGITS else -1.0
    return None


def retry_delay(failures: int, asked: float | None = None) -> float:
    """Return the seconds to wait after so many failures in a row; `asked` is the delay that the server asks for.

    The delay grows with each failure, up to two seconds, or to what the server asks for. It is random, so that callers
    do not return together; but never shorter than the server asks for.
    """
    first = _FIRST_DELAY if asked is None else asked
    delay = min(max(_MAX_DELAY, first), first * 2.0 ** min(failures - 1, _LONG))
    return delay * (random.uniform(0.5, 1.0) if asked is None else random.uniform(1.0, 1.25))  # noqa: S311


def servers_broke(failed: OnnxserveError) -> ServersBroke:
    """Return the error of a request that was being served when its connection broke, twice."""
    return ServersBroke(
        failed.code,
        "two servers broke while they served this request, so it is not sent again: it may be what ends them, and "
        f"their logs and exit statuses say more ({failed.message})",
        reason="SERVERS_BROKE",
        request_id=failed.request_id,
    )
