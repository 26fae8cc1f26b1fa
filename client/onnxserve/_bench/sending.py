"""One request over either method, Predict or Stream. The outcome is a receipt or an error; nothing is raised."""

import asyncio
import contextlib
from collections import deque
from typing import Any, Protocol

import grpc
import grpc.aio

from onnxserve._channel import Methods
from onnxserve._wire import stream_request
from onnxserve.errors import OnnxserveError, from_rpc_error, from_status
from onnxserve.v1 import inference_service_pb2

Outcome = inference_service_pb2.Receipt | OnnxserveError


class Sender(Protocol):
    """Sends serialized PredictRequests."""

    async def send(self, message: bytes) -> Outcome:
        """Send a message and wait for its outcome."""
        ...

    async def close(self) -> None:
        """Cancel the requests in flight."""
        ...


class Unary:
    """Sends each request with a call of Predict.

    Args:
        methods: the methods of an asyncio channel.
        timeout: seconds for each call.
    """

    def __init__(self, methods: Methods, timeout: float) -> None:
        self._predict = methods.predict
        self._timeout = timeout

    async def send(self, message: bytes) -> Outcome:
        """Send a message and wait for its outcome."""
        try:
            response = await self._predict(message, timeout=self._timeout)
        except grpc.RpcError as error:
            return from_rpc_error(error)
        receipt: inference_service_pb2.Receipt = response.receipt
        return receipt

    async def close(self) -> None:
        """Do nothing: each call ends with its own send()."""


class Streamed:
    """Sends all requests on one call of Stream, in order; if the call breaks, on another.

    Args:
        methods: the methods of an asyncio channel.
        timeout: seconds for a whole call of Stream; the timeout of a request is in its message.
    """

    def __init__(self, methods: Methods, timeout: float) -> None:
        self._stream = methods.stream
        self._timeout = timeout
        self._turn = asyncio.Lock()  # one write at a time
        self._call: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: deque[asyncio.Future[Outcome]] = deque()

    async def send(self, message: bytes) -> Outcome:
        """Send a message and wait for its outcome."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        async with self._turn:
            if self._call is None:
                self._call = self._stream(timeout=self._timeout)
                self._reading = asyncio.create_task(self._read(self._call))
            self._waiting.append(answer)
            # An error of a broken call is handled by its reader, which ends the waiting requests.
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await self._call.write(stream_request(message))
        return await answer

    async def close(self) -> None:
        """Cancel the requests in flight."""
        if self._reading is not None:
            self._call = None
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, call: Any) -> None:
        """Read the answers of a call until it ends."""
        ended = OnnxserveError(grpc.StatusCode.UNKNOWN, "the server ended the stream before it answered")
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                is_error = response.WhichOneof("outcome") == "error"
                self._end_first(from_status(response.error, "") if is_error else response.response.receipt)
        except grpc.RpcError as error:
            ended = from_rpc_error(error)
        finally:
            call.cancel()
            if call is self._call:
                self._call = None
            while self._waiting:
                self._end_first(ended)

    def _end_first(self, outcome: Outcome) -> None:
        answer = self._waiting.popleft()
        if not answer.done():  # its sender may have been cancelled
            answer.set_result(outcome)
