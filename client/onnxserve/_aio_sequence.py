"""A sequence of the asyncio client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

import grpc
import grpc.aio

from onnxserve._prediction import Prediction
from onnxserve._sequence import Course, State, Stop, cancel_message, cut_short
from onnxserve.errors import from_rpc_error
from onnxserve.tensor import Array


class AsyncModelSequence:
    """The steps of one caller through a stateful model, for asyncio; as ModelSequence. One step at a time."""

    def __init__(self, open_call: Callable[[], Any], course: Course) -> None:
        self._open_call = open_call
        self._course = course
        self._call: Any = None

    @property
    def state(self) -> State | None:
        """The state after the last step that was asked for a snapshot; None: none was."""
        return self._course.state

    async def step(self, inputs: Mapping[str, Array], *, snapshot: bool = False) -> Prediction:
        """Run the model once, on the inputs and the state after the step before; as ModelSequence.step."""
        return [prediction async for prediction in self._run(inputs, snapshot=snapshot)][-1]

    def generate(
        self, inputs: Mapping[str, Array], *, max_steps: int, stop: Stop | None = None, snapshot: bool = False
    ) -> AsyncIterator[Prediction]:
        """Run the model several times, each time on what it gave before; as ModelSequence.generate.

        Who breaks off the iteration calls aclose() on it, or ends the sequence, to end the steps.
        """
        return self._run(inputs, snapshot=snapshot, most=max_steps, stop=stop)

    async def close(self) -> None:
        """End the sequence and free its state."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def __aenter__(self) -> Self:
        """Return the sequence itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the sequence."""
        await self.close()

    async def _run(
        self, inputs: Mapping[str, Array], *, snapshot: bool, most: int | None = None, stop: Stop | None = None
    ) -> AsyncIterator[Prediction]:
        while True:
            request_id, message = self._course.message(inputs, snapshot=snapshot, most=most, stop=stop)
            if self._call is None:
                self._call = self._open_call()
            final = False
            try:
                await self._write(message)
                while not final:
                    response = await self._call.read()
                    if response is grpc.aio.EOF:
                        await self._raise_for_status()
                        raise cut_short(request_id)
                    prediction = self._course.take(response, request_id)
                    final = response.final
                    if prediction is not None:
                        yield prediction
            except GeneratorExit:
                await self._write(cancel_message(request_id))
                while not final and (response := await self._call.read()) is not grpc.aio.EOF:
                    final = response.final
                raise
            except grpc.RpcError as error:
                self._call = None
                delay = self._course.delay_after(error)
                if delay is None:
                    raise from_rpc_error(error, request_id) from error
                await asyncio.sleep(delay)
            else:
                return

    async def _write(self, message: bytes) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):  # the call is over; reading tells how it ended
            await self._call.write(message)

    async def _raise_for_status(self) -> None:
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                code,
                await self._call.initial_metadata(),
                await self._call.trailing_metadata(),
                details=await self._call.details(),
            )
