"""Sequences: the steps of one caller through a stateful model, whose state the server keeps."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Any

import grpc

from onnxserve._forking import check_process, forks
from onnxserve._prediction import Prediction, read_prediction
from onnxserve._retrying import Attempts, Failure, RetryPolicy, is_broken
from onnxserve._stream import check_answer
from onnxserve._tracing import CallSpan, Metadata, start_stream
from onnxserve._watching import GRACE
from onnxserve._wire import stream_request
from onnxserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    OnnxserveError,
    from_status,
    invalid_answer,
)
from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2 as inference

Encode = Callable[[Mapping[str, Array]], tuple[bytes, str]]

_ID = "sequence"  # names are scoped to a stream, and each sequence has one of its own
_MAX_BREAK_OFF = 5.0  # seconds for a server to end a generation that nobody wants


@dataclass(frozen=True, slots=True)
class State:
    """The state of a sequence after a step; another sequence can start from it. Only servers read its content."""

    message: bytes
    """A serialized onnxserve.v1.StateSnapshot."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A condition on an output that ends generate() early."""

    output: str
    """The name of the output."""
    value: float | None = None
    """The value that every element must have; None: any value but zero."""


class Run:
    """A request for one or several steps, and the progress of its answers.

    Attributes:
        request_id: the request's name.
        attempts: what becomes of it when its call fails; they began with the run.
        call: the gRPC call that it was sent on; None: it is yet to be sent.
        answers: the number of answers that have arrived.
        final: whether the last answer has arrived.
    """

    __slots__ = ("_more", "_request", "answers", "attempts", "call", "final", "request_id")

    def __init__(self, request: bytes, request_id: str, more: inference.StreamRequest, attempts: Attempts) -> None:
        """Make a run of a serialized PredictRequest and the other fields of its StreamRequest."""
        self.request_id = request_id
        self.attempts = attempts
        self.call: Any = None
        self.answers = 0
        self.final = False
        self._request = request
        self._more = more

    def message(self, start: State | None) -> bytes:
        """Return the message to send, with the state that the sequence starts from; None: without one."""
        if start is not None:
            self._more.sequence.state.ParseFromString(start.message)
        return stream_request(self._request) + self._more.SerializeToString()

    def note_answer(self, response: inference.StreamResponse) -> None:
        """Count an answer.

        Raises:
            InvalidAnswer: it should have been the last one, or lacks the state that was asked for.
        """
        self.answers += 1
        max_steps = self._more.steps.max if self._more.HasField("steps") else 1
        if not response.final and self.answers >= max_steps:
            raise invalid_answer(f"answer {self.answers} to at most {max_steps} steps is not the last", self.request_id)
        failed = response.WhichOneof("outcome") == "error"
        if self._more.sequence.snapshot and not (failed or response.HasField("state")):
            raise invalid_answer("it lacks the state that was asked for", self.request_id)

    def cancel_message(self) -> bytes:
        """Return the message that cancels the run."""
        return inference.StreamRequest(cancel=inference.CancelRequest(request_id=self.request_id)).SerializeToString()


class SequenceProtocol:
    """The part that the blocking and the asyncio sequence share: the messages, and who has the state.

    When a call ends, the server's state is lost, unless the server has handed it over before. Then the sequence cannot
    continue: another call would silently start from the initial state.

    Args:
        model: the model's name.
        encode: returns a serialized PredictRequest and its request_id.
        state: the state to start from; None: the model's initial state.
        policy: the client's.
        timeout: the seconds for each run, from its beginning; None: no limit.
        keeps_state: whether the server keeps the state between runs; False: there is only one run.

    Attributes:
        state: the state after the last step that asked for a snapshot.
        unfinished: the run that was sent and whose last answer has not been taken; None: there is none.
        closed: whether the caller has closed the sequence.
    """

    def __init__(
        self,
        model: str,
        encode: Encode,
        state: State | None,
        policy: RetryPolicy,
        timeout: float | None,
        *,
        keeps_state: bool = True,
    ) -> None:
        """Start with no state on a server."""
        self.state: State | None = None
        self.unfinished: Run | None = None
        self.closed = False
        self._model = model
        self._encode = encode
        self._start = state
        self._forks = forks()
        self._policy = policy
        self._timeout = timeout
        self._keeps_state = keeps_state
        self._on_server = False  # the server has a newer state than this client
        self._handed_over = False
        self._busy = threading.Lock()
        self._span: CallSpan | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let one thread or task at a time make a step.

        Raises:
            RuntimeError: another one is making a step, or another process made the sequence.
        """
        check_process(self._forks)
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("another thread or task is waiting for a step of this sequence; make one step at a time")
        try:
            yield
        finally:
            self._busy.release()

    def begin(self, inputs: Mapping[str, Array], *, snapshot: bool, max_steps: int | None, stop: Stop | None) -> Run:
        """Return a new run.

        Raises:
            Cancelled: the sequence has been closed.
            TypeError: the inputs cannot be sent; see predict_request().
            ValueError: `max_steps` is out of range for the protocol.
        """
        if self.closed:
            raise self.cancelled()
        request, request_id = self._encode(inputs)
        more = inference.StreamRequest()
        if self._keeps_state:
            more.sequence.id, more.sequence.snapshot, more.sequence.handoff = _ID, snapshot, True
        if max_steps is not None:
            more.steps.max = max_steps
            if stop is not None:
                more.steps.stop.output = stop.output
                if stop.value is not None:
                    more.steps.stop.value = stop.value
        return Run(request, request_id, more, Attempts(self._policy, self._timeout))

    def close(self) -> None:
        """Note that the caller has closed the sequence."""
        run, self.unfinished = self.unfinished, None
        self.closed = True
        self.end_span(None if run is None else GeneratorExit())

    def check(self, run: Run) -> None:
        """Check that a run has further answers.

        Raises:
            Cancelled: the sequence has been closed, or another step was made in the meantime.
        """
        if self.closed:
            raise self.cancelled()
        if run is not self.unfinished:
            raise Cancelled(
                grpc.StatusCode.CANCELLED,
                "this generation was ended by another step of the sequence",
                request_id=run.request_id,
            )

    def check_start(self, cause: BaseException | None = None) -> None:
        """Check that a new call may begin, after an error that ended the last one.

        Raises:
            Cancelled: the sequence has been closed.
            FailedPrecondition: the state was lost with the last call.
        """
        if self.closed:
            raise self.cancelled() from cause
        if self._on_server:
            raise FailedPrecondition(
                grpc.StatusCode.FAILED_PRECONDITION,
                "the state of the sequence was lost with its connection, or with an interrupted step; "
                "start another sequence, from a snapshot if there is one",
                reason="SEQUENCE_LOST",
            ) from cause

    @property
    def is_foreign(self) -> bool:
        """Whether this is a child of the process that made the sequence."""
        return self._forks != forks()

    def headers(self) -> Metadata:
        """Return the headers of a new call that pass on the span, which lasts over all calls of the sequence."""
        if self._span is None:
            self._span = start_stream(self._model)
        return self._span.metadata

    def end_span(self, error: BaseException | None) -> None:
        """End the span with the error that ended the call, see CallSpan.end(); a further call starts another span."""
        span, self._span = self._span, None
        if span is not None:
            span.end(error)

    def message(self, run: Run) -> bytes:
        """Return the message of a run, which becomes the unfinished one."""
        self.unfinished = run
        return run.message(self._start)

    def take(self, run: Run, response: inference.StreamResponse) -> Prediction | None:
        """Return an answer; None: the message was the state, handed over by a server that is about to stop.

        Raises:
            OnnxserveError: the step failed, or the answer is invalid.
        """
        if response.WhichOneof("outcome") == "handoff":
            if self._handed_over:
                raise invalid_answer("it handed over the state of the sequence twice", run.request_id)
            self._start = State(response.handoff.state.SerializeToString())
            self._on_server, self._handed_over = False, True
            return None
        check_answer(response, run.request_id)
        run.note_answer(response)
        self._policy.note_answer()
        failed = response.WhichOneof("outcome") == "error"
        if self._keeps_state and not failed:
            self._on_server, self._start = True, None
        if response.HasField("state"):
            self.state = State(response.state.SerializeToString())
        run.final = response.final  # last, so that an interruption leaves the run unfinished
        if run.final:
            self.unfinished = None
        if failed:
            raise from_status(response.error, run.request_id)
        return read_prediction(response.response, run.request_id)

    def deadline(self, run: Run) -> float:
        """Return when the next answer to a run is overdue, in seconds of time.monotonic(); inf for never."""
        left = run.attempts.time_left  # the caller may have let answers wait: those that have arrived are taken first
        return inf if left == inf else monotonic() + left + GRACE

    def overdue(self, run: Run) -> OnnxserveError:
        """Return the error of a run whose answer is overdue."""
        message = f"no answer within the timeout of {self._timeout:g} s"
        return DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, message, request_id=run.request_id)

    def may_be_unsent(self, run: Run) -> bool:
        """Whether there may be no connection for a run's call."""
        return self._policy.waits and not (run.answers or self._on_server)

    def give_up(self, run: Run) -> bool:
        """Note that a run has failed, or was broken off; return whether its call can no longer be used.

        It cannot while an answer may still arrive, nor if there is only one run, nor if the step that brought the
        state to start with failed: nobody can tell whether the server has taken the state, and it takes one only once.
        """
        self.unfinished = None
        return not run.final or not self._keeps_state or self._start is not None

    def delay_after(self, error: grpc.RpcError, run: Run) -> float:
        """Return the seconds to wait before a run is sent again whose call ended with an error.

        Raises:
            OnnxserveError: the run cannot be sent again.
        """
        failed = self._policy.judge(error, run.request_id)
        handed_over, self._handed_over = self._handed_over, False
        if is_broken(error) or self.closed:
            self.check_start(error)
        if run.answers or failed.failure is Failure.FINAL:
            raise failed.error
        delay = run.attempts.delay_after(failed)
        run.call = None
        return 0.0 if handed_over else delay

    def cancelled(self) -> Cancelled:
        """Return the error of a step after the sequence, or the client, has been closed."""
        what = "sequence" if self.closed else "client"
        return Cancelled(grpc.StatusCode.CANCELLED, f"the {what} has been closed")


def break_off_deadline() -> float:
    """Return until when to wait for the end of a generation that is broken off, in seconds of time.monotonic()."""
    return monotonic() + _MAX_BREAK_OFF


def cut_short(run: Run) -> OnnxserveError:
    """Return the error of a stream that ended with OK, but too early."""
    return invalid_answer("it ended the stream before it answered the step", run.request_id)
