"""Sequences: the steps of one caller through a stateful model, whose state the server keeps."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc

from onnxserve._prediction import Prediction
from onnxserve._stream import is_broken
from onnxserve._wire import stream_request
from onnxserve.errors import FailedPrecondition, OnnxserveError, from_status
from onnxserve.tensor import Array
from onnxserve.v1 import inference_service_pb2 as inference

Encode = Callable[[Mapping[str, Array]], tuple[bytes, str]]

_ID = "sequence"  # names are scoped to a stream, and each sequence has one of its own
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 2.0  # seconds


@dataclass(frozen=True, slots=True)
class State:
    """The state of a sequence after a step, to start another one with. Its content is the server's."""

    message: bytes
    """A serialized onnxserve.v1.StateSnapshot."""


@dataclass(frozen=True, slots=True)
class Stop:
    """When generate() ends before its most steps: all elements of an output are `value`; None: are not zero."""

    output: str
    value: float | None = None


class Course:
    """What the blocking and the asyncio sequence share: the messages, and where the state is.

    Args:
        encode: returns a serialized PredictRequest and its request_id.
        state: what to start with.
        retries: how often in a row a stream that brings no answer is followed by another.
    """

    def __init__(self, encode: Encode, state: State | None, retries: int) -> None:
        self.state: State | None = None  # after the last step that asked for it
        self._encode = encode
        self._start = state
        self._retries = retries
        self._failures = 0
        self._on_server = False  # the server has a state that we have not
        self._handed_over = False

    def message(
        self, inputs: Mapping[str, Array], *, snapshot: bool = False, most: int | None = None, stop: Stop | None = None
    ) -> tuple[str, bytes]:
        """Return the request_id and the message of a step, or of several."""
        request, request_id = self._encode(inputs)
        more = inference.StreamRequest(sequence=inference.Sequence(id=_ID, snapshot=snapshot, handoff=True))
        if self._start is not None:
            more.sequence.state.ParseFromString(self._start.message)
        if most is not None:
            more.steps.max = most
            if stop is not None:
                more.steps.stop.output = stop.output
                if stop.value is not None:
                    more.steps.stop.value = stop.value
        return request_id, stream_request(request) + more.SerializeToString()

    def take(self, response: inference.StreamResponse, request_id: str) -> Prediction | None:
        """Return an answer; None: it was no answer, but the state from a server that is about to stop.

        Raises:
            OnnxserveError: the step failed.
        """
        if response.WhichOneof("outcome") == "handoff":
            self._start = State(response.handoff.state.SerializeToString())
            self._on_server, self._handed_over = False, True
            return None
        self._failures = 0
        if response.WhichOneof("outcome") == "error":
            raise from_status(response.error, request_id)
        self._start, self._on_server = None, True
        if response.HasField("state"):
            self.state = State(response.state.SerializeToString())
        return Prediction(response.response)

    def delay_after(self, error: grpc.RpcError) -> float | None:
        """Return after how many seconds to send a step again that got no answer; None: it cannot be.

        Raises:
            FailedPrecondition: the connection broke, and the state with it.
        """
        if not is_broken(error) or self._failures >= self._retries:
            return None
        if self._on_server:
            raise FailedPrecondition(
                grpc.StatusCode.FAILED_PRECONDITION,
                "the connection broke, and the state of the sequence was lost with it; start it anew",
                reason="SEQUENCE_LOST",
            ) from error
        self._failures += 1
        if self._handed_over:
            self._handed_over = False
            return 0.0
        return random.uniform(0.5, 1.0) * float(min(_LONGEST_DELAY, _FIRST_DELAY * 2.0**self._failures))  # noqa: S311


def cancel_message(request_id: str) -> bytes:
    """Return the message that gives up a request."""
    return inference.StreamRequest(cancel=inference.CancelRequest(request_id=request_id)).SerializeToString()


def cut_short(request_id: str) -> OnnxserveError:
    """Return the error of a stream that ended well, but too early."""
    return OnnxserveError(
        grpc.StatusCode.UNKNOWN, "the stream ended before the step was answered", request_id=request_id
    )
