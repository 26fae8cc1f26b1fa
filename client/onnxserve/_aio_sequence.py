"""A sequence of the asyncio client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

import grpc
import grpc.aio

from onnxserve._aio_calls import call_cancelled, own_error, rpc_error
from onnxserve._prediction import Prediction
from onnxserve._sequence import Run, SequenceProtocol, State, Stop, break_off_deadline, cut_short
from onnxserve._tracing import Metadata
from onnxserve._watching import AsyncWatched
from onnxserve.errors import OnnxserveError, Unavailable
from onnxserve.tensor import Array

_NO_TURN = contextlib.nullcontext(True)


class AsyncModelSequence:
    """Steps through a stateful model, for asyncio; as ModelSequence. Make one step at a time."""

    def __init__(
        self,
        open_call: Callable[[Metadata], Any],
        turn: Callable[[float], AbstractAsyncContextManager[bool]],
        why_unsent: Callable[[str], Awaitable[Unavailable | None]],
        protocol: SequenceProtocol,
    ) -> None:
        self._open_call = open_call
        self._turn = turn
        self._why_unsent = why_unsent
        self._protocol = protocol
        self._watched = AsyncWatched()
        self._call: Any = None
        self._breaking_off = asyncio.Lock()

    @property
    def state(self) -> State | None:
        """The state after the last step with snapshot=True; None: there was none."""
        return self._protocol.state

    async def step(self, inputs: Mapping[str, Array], *, snapshot: bool = False) -> Prediction:
        """Run the model once, on the inputs and on the state after the previous step; as ModelSequence.step."""
        with self._protocol.turn():
            return await self._next(await self._begin(inputs, snapshot=snapshot))

    async def generate(
        self, inputs: Mapping[str, Array], *, max_steps: int, stop: Stop | None = None, snapshot: bool = False
    ) -> AsyncIterator[Prediction]:
        """Run the model step by step, each time on the outputs of the step before; as ModelSequence.generate.

        To end the steps early, call aclose() on the iterator, make another step, or close the sequence.
        """
        with self._protocol.turn():
            run = await self._begin(inputs, snapshot=snapshot, max_steps=max_steps, stop=stop)
            prediction = await self._next(run)
        try:
            while True:
                final = run.final  # of this answer: another step may break the run off meanwhile
                yield prediction
                if final:
                    return
                with self._protocol.turn():
                    self._protocol.check(run)
                    prediction = await self._next(run)
        finally:
            await self._break_off(run)

    async def close(self) -> None:
        """Close the sequence; the server frees its state."""
        if self._protocol.is_foreign:
            return
        self._protocol.close()
        self._drop_call()

    async def __aenter__(self) -> Self:
        """Return the sequence itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the sequence."""
        await self.close()

    async def _begin(
        self, inputs: Mapping[str, Array], *, snapshot: bool, max_steps: int | None = None, stop: Stop | None = None
    ) -> Run:
        if self._protocol.unfinished is not None:
            await self._break_off(self._protocol.unfinished)
        return self._protocol.begin(inputs, snapshot=snapshot, max_steps=max_steps, stop=stop)

    async def _next(self, run: Run) -> Prediction:
        """Return the next answer; the first answer may come from another server."""
        try:
            while True:
                try:
                    if run.call is not None:
                        return await self._receive(run, self._protocol.deadline(run))
                    async with self._turn(run.attempts.time_left) if run.attempts.broke else _NO_TURN as in_time:
                        if not in_time:
                            raise await self._overdue(run)
                        return await self._ask(run, self._protocol.deadline(run))
                except grpc.RpcError as error:
                    delay = self._protocol.delay_after(await own_error(run.call, error), run)
                    self._drop_call()
                    await asyncio.sleep(delay)
        except BaseException as error:  # CancelledError too
            expired = self._watched.expired and not self._protocol.closed
            if self._protocol.give_up(run):
                self._end_call(error)
            if call_cancelled(error):
                raise await self._overdue(run) if expired else self._protocol.cancelled() from None
            raise

    async def _overdue(self, run: Run) -> OnnxserveError:
        unsent = await self._why_unsent(run.request_id) if self._protocol.may_be_unsent(run) else None
        return unsent or self._protocol.overdue(run)

    async def _ask(self, run: Run, deadline: float) -> Prediction:
        """Send a run and return its first answer."""
        if self._watched.expired:  # in the moment in which the last answer came
            self._drop_call()
        call = self._call
        if call is None:
            self._protocol.check_start()
            call = self._call = self._open_call(self._protocol.headers())
            self._watched.follow(call)
            self._watched.arm(deadline)
            await _until_made(call)
        run.call = call
        writing = asyncio.create_task(self._write(run, self._protocol.message(run)))
        try:
            # Reading starts before the task does: after a failed write, grpc.aio (1.85.1) would not even return the
            # state that the server has handed over before.
            return await self._receive(run, deadline)
        finally:
            await asyncio.wait([writing])

    async def _write(self, run: Run, message: bytes) -> None:
        # These errors mean that the call has ended; reading raises how.
        with contextlib.suppress(asyncio.InvalidStateError, grpc.RpcError):
            await run.call.write(message)

    async def _receive(self, run: Run, deadline: float) -> Prediction:
        """Return the next answer; the call is cancelled at the deadline."""
        while True:
            self._watched.arm(deadline)
            response = await run.call.read()
            self._watched.disarm()
            if response is grpc.aio.EOF:
                await self._raise_for_status(run)
                raise cut_short(run)
            prediction = self._protocol.take(run, response)
            if prediction is not None:
                return prediction

    async def _break_off(self, run: Run) -> None:
        """Cancel a generation and discard the answers to it that are on their way, unless that has happened already."""
        async with self._breaking_off:  # the event loop closes a dropped generator, perhaps during the next step
            if self._protocol.unfinished is not run:
                return
            try:
                await self._write(run, run.cancel_message())
                deadline = break_off_deadline()
                while not run.final:
                    await self._receive(run, deadline)
            except (grpc.RpcError, OnnxserveError):
                pass  # nobody wants these steps; if the call has ended, the next step raises its error
            except asyncio.CancelledError as error:
                if not call_cancelled(error):
                    raise
            finally:
                if self._protocol.give_up(run):
                    self._end_call(GeneratorExit())

    def _end_call(self, error: BaseException) -> None:
        self._drop_call()
        self._protocol.end_span(error)

    def _drop_call(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    async def _raise_for_status(self, run: Run) -> None:
        if await run.call.code() is not grpc.StatusCode.OK:
            raise await rpc_error(run.call)


async def _until_made(call: Any) -> None:
    """Wait until a call is connected, or has ended; write() would wait forever for a call that was cancelled before."""
    waits = [asyncio.ensure_future(each) for each in (call.wait_for_connection(), call.code())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
