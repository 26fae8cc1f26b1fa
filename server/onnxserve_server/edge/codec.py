"""A codec turns the messages of a protocol into the engine's nouns, and back. A module with these functions is one."""

from typing import NamedTuple, Protocol

from onnxserve_server.core import Clock, Request, Result, Step, StepResult
from onnxserve_server.engine.seam import Handoff
from onnxserve_server.errors import ServeError


class UnaryCodec(Protocol):
    """Reads and writes the messages of a unary method."""

    def decode_request(self, message: bytes, deadline: float, clock: Clock) -> Request:
        """Return a message as a request.

        Args:
            message: the bytes that came.
            deadline: the call's, in seconds of Unix time; inf for none.
            clock: the engine's.

        Raises:
            InvalidRequest: the bytes are not such a message, or a field has no meaning.
            EncodingNotSupported: they are compressed.
        """
        ...

    def encode_result(self, result: Result, request_id: str) -> bytes:
        """Return a result as a message."""
        ...


class StreamedRequest(Protocol):
    """A request of a stream as it came: its names are known, the rest has not been read.

    Attributes:
        request_id: the caller's name for it, "" for none.
        model: the model asked for, as the caller said, known or not.
        version: the same of its version; "" for the newest.
    """

    request_id: str
    model: str
    version: str

    @property
    def ended_sequence(self) -> str:
        """The sequence that ends with this request; "" for none."""
        ...

    def read(self, deadline: float, clock: Clock) -> tuple[Request, Step | None]:
        """Return the request, and the step that makes it more than one run that stands alone.

        Args and errors are those of UnaryCodec.decode_request().
        """
        ...


class Cancellation(NamedTuple):
    """The message by which a caller gives up its requests of that name."""

    request_id: str


class StreamCodec(Protocol):
    """Reads and writes the messages of a streaming method."""

    def decode_message(self, message: bytes) -> StreamedRequest | Cancellation:
        """Return what a message asks for.

        Raises:
            InvalidRequest: the bytes are not such a message, or it asks for nothing.
            EncodingNotSupported: they are compressed.
        """
        ...

    def encode_reply(self, outcome: Result | StepResult | ServeError, request_id: str) -> bytes:
        """Return the outcome of a request, or of one of its steps, as a message."""
        ...

    def encode_handoff(self, handoff: Handoff) -> bytes:
        """Return the state of a sequence as a message that ends it here."""
        ...


class Codec(UnaryCodec, StreamCodec, Protocol):
    """Reads and writes the messages of both."""
