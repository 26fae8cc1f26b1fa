"""Sequences: the steps of one caller through a stateful model, whose state the server keeps."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from onnxserve._prediction import Prediction
from onnxserve._stream import check_answer, is_broken
from onnxserve._tracing import CallSpan, Metadata, start_stream
from onnxserve._wire import stream_request
from onnxserve.errors import Cancelled, FailedPrecondition, OnnxserveError, from_rpc_error, from_status
from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2 as inference

Encode = Callable[[Mapping[str, Array]], tuple[bytes, str]]

_ID = "sequence"  # names are scoped to a stream, and each sequence has one of its own
_FIRST_DELAY, _MAX_DELAY = 0.1, 2.0  # seconds


@dataclass(frozen=True, slots=True)
class State:
    """The state of a sequence after a step, to start another one with. Its content is the server's."""

    message: bytes
    """A serialized onnxserve.v1.StateSnapshot."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A condition that ends generate() early: every element of `output` equals `value`; None: is not zero."""

    output: str
    value: float | None = None


class Run:
    """A request for a step, or for several, and how far its answers have come.

    Attributes:
        request_id: its name.
        call: what it was sent on; None: it is to be sent.
        answered: whether an answer to it has come.
        final: whether its last one has.
    """

    __slots__ = ("_more", "_request", "answered", "call", "final", "request_id")

    def __init__(self, request: bytes, request_id: str, more: inference.StreamRequest) -> None:
        """Make one of a serialized PredictRequest, and what is to go with it."""
        self.request_id = request_id
        self.call: Any = None
        self.answered = False
        self.final = False
        self._request = request
        self._more = more

    def message(self, start: State | None) -> bytes:
        """Return what is sent, with the state that the sequence starts with; None: with none."""
        if start is not None:
            self._more.sequence.state.ParseFromString(start.message)
        return stream_request(self._request) + self._more.SerializeToString()

    def cancel_message(self) -> bytes:
        """Return what is sent to give it up."""
        return inference.StreamRequest(cancel=inference.CancelRequest(request_id=self.request_id)).SerializeToString()


class SequenceProtocol:
    """What the blocking and the asyncio sequence share: the messages, and where the state is.

    A call that is over takes the state along that the server had, unless the server has handed it over. So there is no
    next call then: it would start from the initial state, and nobody would know.

    Args:
        model: its name.
        encode: returns a serialized PredictRequest and its request_id.
        state: what to start with.
        retries: how often in a row a stream that brings no answer is followed by another.
        keeps_state: whether the server is to keep the state between runs; False: there is one run.

    Attributes:
        state: the state after the last step that asked for it.
        unfinished: the run that was sent, and whose last answer has not been taken; None: there is none.
        closed: whether the caller has ended it.
    """

    def __init__(
        self, model: str, encode: Encode, state: State | None, retries: int, *, keeps_state: bool = True
    ) -> None:
        """Begin with nothing on a server."""
        self.state: State | None = None
        self.unfinished: Run | None = None
        self.closed = False
        self._model = model
        self._encode = encode
        self._start = state
        self._retries = retries
        self._keeps_state = keeps_state
        self._failures = 0
        self._on_server = False  # the server has a state that we have not
        self._handed_over = False
        self._busy = threading.Lock()
        self._span: CallSpan | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keep all others out while one step is made.

        Raises:
            RuntimeError: another one is.
        """
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("another thread or task waits for a step of this sequence: make one step at a time")
        try:
            yield
        finally:
            self._busy.release()

    def begin(self, inputs: Mapping[str, Array], *, snapshot: bool, max_steps: int | None, stop: Stop | None) -> Run:
        """Return a new run.

        Raises:
            Cancelled: the sequence has been closed.
            TypeError: inputs that cannot be sent.
            ValueError: `max_steps` is no number of steps.
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
        return Run(request, request_id, more)

    def close(self) -> None:
        """Note that the caller has ended the sequence."""
        run, self.unfinished = self.unfinished, None
        self.closed = True
        self.end_span(None if run is None else GeneratorExit())

    def check(self, run: Run) -> None:
        """Check that further answers to a run are to come.

        Raises:
            Cancelled: the sequence has been closed, or another step has been made meanwhile.
        """
        if self.closed:
            raise self.cancelled()
        if run is not self.unfinished:
            raise Cancelled(
                grpc.StatusCode.CANCELLED,
                "these steps have ended, because another one of the sequence was asked for meanwhile",
                request_id=run.request_id,
            )

    def check_start(self, cause: BaseException | None = None) -> None:
        """Check that a new call may begin, after an error that ended the last one.

        Raises:
            Cancelled: the sequence has been closed.
            FailedPrecondition: the state is gone with the last call.
        """
        if self.closed:
            raise self.cancelled() from cause
        if self._on_server:
            raise FailedPrecondition(
                grpc.StatusCode.FAILED_PRECONDITION,
                "the state of the sequence was lost with its connection, or with a step that was interrupted; "
                "start another sequence, from a snapshot's state if there is one",
                reason="SEQUENCE_LOST",
            ) from cause

    def headers(self) -> Metadata:
        """Return what tells a new call of the span, which begins with the first one and goes on over the others."""
        if self._span is None:
            self._span = start_stream(self._model)
        return self._span.metadata

    def end_span(self, error: BaseException | None) -> None:
        """End the span, which a new call would begin anew, with what ended the call; see CallSpan.end()."""
        span, self._span = self._span, None
        if span is not None:
            span.end(error)

    def message(self, run: Run) -> bytes:
        """Return what is sent of a run, which is the unfinished one from now on."""
        self.unfinished = run
        return run.message(self._start)

    def take(self, run: Run, response: inference.StreamResponse) -> Prediction | None:
        """Return an answer; None: it was no answer, but the state from a server that is about to stop.

        Raises:
            OnnxserveError: the step failed, or it is no answer to the run.
        """
        if response.WhichOneof("outcome") == "handoff":
            self._start = State(response.handoff.state.SerializeToString())
            self._on_server, self._handed_over = False, True
            return None
        check_answer(response, run.request_id)
        self._failures = 0
        run.answered = True
        failed = response.WhichOneof("outcome") == "error"
        if self._keeps_state and not failed:
            self._on_server, self._start = True, None
        if response.HasField("state"):
            self.state = State(response.state.SerializeToString())
        run.final = response.final  # not before what an interruption is not to come in between
        if run.final:
            self.unfinished = None
        if failed:
            raise from_status(response.error, run.request_id)
        return Prediction(response.response)

    def give_up(self, run: Run) -> bool:
        """Note that a run has failed, or been broken off; return whether its call is of no more use.

        So it is while an answer may still come, and where there is one run alone. And where the step that brought the
        state to start with failed: nobody can tell whether the server has taken the state, and it takes one only once.
        """
        self.unfinished = None
        return not run.final or not self._keeps_state or self._start is not None

    def delay_after(self, error: grpc.RpcError, run: Run) -> float:
        """Return after how many seconds to send a run again whose call ended with an error, and note that it is to be.

        Raises:
            OnnxserveError: it cannot be sent again.
        """
        if is_broken(error) or self.closed:
            self.check_start(error)
        if not is_broken(error) or run.answered or self._failures >= self._retries:
            raise from_rpc_error(error, run.request_id) from error
        run.call = None
        self._failures += 1
        if self._handed_over:
            self._handed_over = False
            return 0.0
        return random.uniform(0.5, 1.0) * float(min(_MAX_DELAY, _FIRST_DELAY * 2.0**self._failures))  # noqa: S311

    def cancelled(self) -> Cancelled:
        """Return what a step raises when the sequence, or the client, has been closed."""
        what = "sequence" if self.closed else "client"
        return Cancelled(grpc.StatusCode.CANCELLED, f"the {what} has been closed")


def cut_short(run: Run) -> OnnxserveError:
    """Return the error of a stream that ended well, but too early."""
    return OnnxserveError(
        grpc.StatusCode.UNKNOWN, "the stream ended before the step was answered", request_id=run.request_id
    )
