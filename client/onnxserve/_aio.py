"""The asyncio client."""

import asyncio
import contextlib
import functools
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Self

import grpc
import grpc.aio

from onnxserve import _counting, _tracing
from onnxserve._aio_calls import Ending, call_cancelled
from onnxserve._aio_sequence import AsyncModelSequence
from onnxserve._base import (
    CONNECTION_TIMEOUT,
    DEFAULT_TIMEOUT,
    NOT_CONNECTED,
    NOT_READY,
    PROBE_TIMEOUT,
    READY_TIMEOUT,
    BaseClient,
    closed,
)
from onnxserve._call import PredictCall
from onnxserve._channel import SERVING, health_request
from onnxserve._forking import check_process, forks
from onnxserve._joining import JoinedPart, Key
from onnxserve._messages import AsyncMessageSource
from onnxserve._models import ModelInfo, model_info
from onnxserve._prediction import Prediction, read_prediction
from onnxserve._retrying import Attempts, Failed, Failure, retry_delay
from onnxserve._sequence import SequenceProtocol, State, Stop
from onnxserve._stream import DEFAULT_WINDOW, Unanswered, checked
from onnxserve._turns import TURNS
from onnxserve._waiting import Batch, Waiter
from onnxserve._watching import AsyncWatched
from onnxserve._wire import check_model, predict_request
from onnxserve.errors import OnnxserveError, Unavailable, from_rpc_error, of_request
from onnxserve.tensor import Array
from onnxserve.v1 import model_service_pb2


class AsyncClient(BaseClient):
    """Client for asyncio: the same calls, awaited. It belongs to the event loop in which it is made.

    Cancelling a task cancels its call, on the server too. Use the client in an `async with` statement, or close it.
    """

    async def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        priority: int = 0,
        request_id: str | None = None,
    ) -> Prediction:
        """Run a model once; as Client.predict."""
        check_process(self._forks)
        call = PredictCall(
            model=model,
            inputs=inputs,
            outputs=outputs,
            version=version,
            priority=priority,
            timeout=timeout,
            request_id=request_id,
        )
        _counting.count("Predict", model)
        if (span := _tracing.start("Predict", model)) is not None:  # a traced call goes alone, and the header with it
            with span:
                return await self._predict(call, span.metadata)
        if (key := self._key(call)) is None:
            return await self._predict(call)
        waiter = self._enter(key, call)
        if waiter is not None and (prediction := await self._wait(waiter)) is not None:
            return prediction
        try:
            if waiter is None:
                return await self._predict(call)
            return await self._predict(self._after_waiting(call, waiter), failed=self._failed_before(waiter))
        finally:
            self._coalescer.finish(key)

    async def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, Array]] | AsyncIterable[Mapping[str, Array]],
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        priority: int = 0,
        window: int = DEFAULT_WINDOW,
        return_errors: bool = False,
    ) -> AsyncIterator[Prediction | OnnxserveError]:
        """Send many requests without waiting for each answer; as Client.stream.

        `inputs` may be an asynchronous iterable; a task of its own iterates it.
        """
        watched = AsyncWatched()
        unanswered = Unanswered(window, self._policy, self._check(timeout), watched)
        call = PredictCall(model=model, inputs={}, outputs=outputs, version=version, timeout=timeout, priority=priority)
        source = AsyncMessageSource(inputs, functools.partial(self._stream_request, call), unanswered)
        try:
            with _tracing.start_stream(model) as span:
                while True:
                    self._check(None)
                    for overdue in await self._overdue(unanswered):
                        yield checked(overdue, return_errors)
                    if unanswered.ended:
                        break
                    rpc = self._open_stream(span.metadata, source.messages())
                    watched.follow(rpc)
                    ending = Ending(rpc)
                    answers, failed = aiter(rpc), None
                    try:
                        while (response := await self._read(answers, source, unanswered, watched)) is not None:
                            outcome = unanswered.answer(response)
                            source.notify()
                            yield checked(outcome, return_errors)
                        unanswered.check_empty()
                        break
                    except grpc.RpcError as error:
                        failed = await ending.error(error)
                    except asyncio.CancelledError as error:
                        if not call_cancelled(error) or not (self._closed or watched.expired):
                            raise
                    finally:
                        rpc.cancel()
                    if failed is None:
                        continue
                    delay = unanswered.after(self._policy.judge(failed))
                    if isinstance(delay, OnnxserveError):
                        yield checked(delay, return_errors)
                    else:
                        await asyncio.sleep(delay)
                source.check()
        finally:
            await source.close()

    async def _read(
        self, answers: AsyncIterator[Any], source: AsyncMessageSource, unanswered: Unanswered, watched: AsyncWatched
    ) -> Any:
        """Return the next answer of a call, which is cancelled when the answer is overdue; None: the call has ended."""
        if not unanswered.one_by_one:
            unanswered.wait()
            return await anext(answers, None)
        async with self._turn(unanswered.time_left) as has_connection:
            if not has_connection:
                watched.expire()
            elif not watched.call.done():  # or the request would count as sent
                unanswered.wait()
                source.notify()
            return await anext(answers, None)

    async def _overdue(self, unanswered: Unanswered) -> list[OnnxserveError]:
        """Return the errors of the requests of a stream whose answers are overdue; they are not sent again."""
        overdue = unanswered.expire()
        unsent = await self._why_unsent() if overdue else None
        return overdue if unsent is None else [of_request(unsent, each.request_id) for each in overdue]

    def sequence(
        self,
        model: str,
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        priority: int = 0,
        state: State | None = None,
    ) -> AsyncModelSequence:
        """Return a sequence of steps through a stateful model; as Client.sequence."""
        call = PredictCall(model=model, inputs={}, outputs=outputs, version=version, timeout=timeout, priority=priority)
        return self._sequence(self._protocol(call, state=state))

    async def generate(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        max_steps: int,
        stop: Stop | None = None,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        priority: int = 0,
    ) -> AsyncIterator[Prediction]:
        """Run a model step by step, each time on the outputs of the step before; as Client.generate.

        To end the steps early, call aclose() on the iterator.
        """
        call = PredictCall(model=model, inputs={}, outputs=outputs, version=version, timeout=timeout, priority=priority)
        async with self._sequence(self._protocol(call, keeps_state=False)) as sequence:
            async for prediction in sequence.generate(inputs, max_steps=max_steps, stop=stop):
                yield prediction

    async def models(self, *, timeout: float | None = DEFAULT_TIMEOUT) -> list[ModelInfo]:
        """Return every version of every model, ordered by name, then version, oldest first."""
        response = await self._call(self._methods.list_models, model_service_pb2.ListModelsRequest(), timeout)
        return [*map(model_info, response.models)]

    async def model(
        self, name: str, version: str | None = None, *, timeout: float | None = DEFAULT_TIMEOUT
    ) -> ModelInfo:
        """Return one version of a model; `version` None: the one that predict() would use."""
        check_model(name, version)
        request = model_service_pb2.GetModelRequest(model=name, version=version)
        return model_info((await self._call(self._methods.get_model, request, timeout)).model)

    async def ready(self, model: str | None = None, *, timeout: float | None = READY_TIMEOUT) -> bool:
        """Return whether the server, or one of its models, accepts requests; False if the server is unreachable."""
        try:
            return bool(await self._check_health(model, self._check(timeout)) == SERVING)
        except grpc.RpcError as error:
            if error.code() in NOT_READY:
                return False
            raise from_rpc_error(error) from error

    async def close(self) -> None:
        """Close the connections; calls in flight are cancelled. In a child of the client's process nothing happens."""
        if self._forks != forks():
            return
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the client."""
        await self.close()

    def _open(self, target: str, credentials: grpc.ChannelCredentials | None, **kwargs: Any) -> Any:
        self._asking: set[asyncio.Task[ModelInfo]] = set()
        try:  # without one, grpc would bind the channel to a loop that never runs
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "no running event loop: make an AsyncClient inside an async function, such as the one given to "
                "asyncio.run()"
            ) from None
        if credentials is None:
            return grpc.aio.insecure_channel(target, **kwargs)
        return grpc.aio.secure_channel(target, credentials, **kwargs)

    def _sequence(self, protocol: SequenceProtocol) -> AsyncModelSequence:
        return AsyncModelSequence(self._open_stream, self._turn, self._why_unsent, protocol)

    def _open_stream(self, headers: _tracing.Metadata, messages: AsyncIterator[bytes] | None = None) -> Any:
        return self._methods.stream(messages, metadata=(*self._metadata, *headers), wait_for_ready=self._policy.waits)

    async def _predict(
        self, call: PredictCall, headers: _tracing.Metadata = (), failed: Failed | None = None
    ) -> Prediction:
        request_id = self._new_id() if call.request_id is None else call.request_id
        request = predict_request(call, request_id)
        response = await self._call(self._methods.predict, request, call.timeout, request_id, headers, failed=failed)
        return read_prediction(response, request_id, call.outputs)

    async def _wait(self, waiter: "_TaskWaiter") -> Prediction | None:
        """Return the answer to a call that is joined with others; None: the call is to be sent alone."""
        loop = asyncio.get_running_loop()
        timers = []
        if waiter.is_first:
            timers.append(loop.call_later(self._coalescer.max_wait, self._coalescer.flush, waiter))
        if waiter.deadline < math.inf:
            timers.append(loop.call_later(waiter.time_left, waiter.wake))
        try:
            await waiter.woken
        except BaseException:  # the task has been cancelled
            self._coalescer.abandon(waiter)
            raise
        finally:
            for timer in timers:
                timer.cancel()
        return self._take(waiter)

    def _make_waiter(self, key: Key, part: JoinedPart, deadline: float, request_id: str) -> "_TaskWaiter":
        return _TaskWaiter(key, part, deadline, request_id)

    def _send(self, batch: Batch) -> None:
        batch.call = call = asyncio.create_task(self._carry(batch))
        if batch.abandoned:  # while it waited to be sent again
            call.cancel()
        call.add_done_callback(functools.partial(self._returned, batch))

    def _send_later(self, batch: Batch, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._send, batch)

    async def _carry(self, batch: Batch) -> Any:
        message = batch.message(self._new_id())
        return await self._methods.predict(
            message, timeout=batch.timeout, metadata=self._metadata, wait_for_ready=self._policy.waits
        )

    def _returned(self, batch: Batch, call: "asyncio.Task[Any]") -> None:
        error = closed() if call.cancelled() else call.exception()
        try:
            if error is None:
                self._answered(batch, call.result())
            elif isinstance(error, grpc.RpcError):
                self._failed(batch, self._policy.judge(error))
            elif isinstance(error, OnnxserveError):
                self._failed(batch, Failed(error, Failure.FINAL, None))
            else:
                self._coalescer.each_alone(batch)
        except Exception:  # or the calls would wait for ever
            self._coalescer.each_alone(batch)

    def _ask(self, model: str, version: str | None) -> None:
        def learn(task: "asyncio.Task[ModelInfo]") -> None:
            self._asking.discard(task)
            failed = task.cancelled() or task.exception() is not None
            self._coalescer.learn(model, version, None if failed else task.result())

        task = asyncio.create_task(self.model(model, version))
        self._asking.add(task)  # the loop itself would let it go
        task.add_done_callback(learn)

    async def _call(
        self,
        method: Callable[..., Any],
        request: Any,
        timeout: float | None,
        request_id: str = "",
        headers: _tracing.Metadata = (),
        *,
        failed: Failed | None = None,
    ) -> Any:
        """Make a call until it is answered; `failed`: how the joined request failed that it was a part of."""
        attempts = Attempts(self._policy, self._check(timeout))
        send = functools.partial(
            method, request, metadata=(*self._metadata, *headers), wait_for_ready=self._policy.waits
        )
        while True:
            if failed is not None:
                await asyncio.sleep(attempts.delay_after(failed))
                self._check(None)
            try:
                if attempts.broke:
                    async with self._turn(attempts.time_left):
                        response = await self._answer(send(timeout=attempts.timeout))
                else:
                    response = await self._answer(send(timeout=attempts.timeout))
            except grpc.RpcError as error:
                if attempts.may_be_unsent(error) and (unsent := await self._why_unsent(request_id)):
                    raise unsent from error
                failed = self._policy.judge(error, request_id)
            else:
                self._policy.note_answer()
                return response

    async def _answer(self, call: Any) -> Any:
        """Return the answer to a call.

        Raises:
            Cancelled: the client has been closed.
        """
        try:
            return await call
        except asyncio.CancelledError as error:
            if self._closed and call_cancelled(error):
                raise closed() from None
            raise

    @contextlib.asynccontextmanager
    async def _turn(self, seconds: float) -> AsyncIterator[bool]:
        """Wait for a turn and a connection; as Client._turn."""
        deadline, failures = monotonic() + seconds, 0
        while (left := deadline - monotonic()) > 0:
            self._check(None)
            async with TURNS.async_turn(left):
                if await self._has_connection(left):
                    yield True
                    return
            failures += 1
            await asyncio.sleep(min(left, retry_delay(failures)))
        yield False

    async def _has_connection(self, seconds: float) -> bool:
        try:
            await self._check_health(None, min(seconds, CONNECTION_TIMEOUT))
        except grpc.RpcError as error:
            return error.code() not in NOT_CONNECTED
        return True

    async def _why_unsent(self, request_id: str = "") -> Unavailable | None:
        """Return the error of a call that was not sent, as there is no connection; None: there is one."""
        try:
            await self._check_health(None, PROBE_TIMEOUT)
        except grpc.RpcError as probe:
            return self._unsent(probe, request_id)
        return None

    async def _check_health(self, model: str | None, timeout: float | None) -> Any:
        # Never sent again, and without waiting for a connection: it reports the present state.
        check = self._methods.check(health_request(model), timeout=timeout, metadata=self._metadata)
        return (await self._answer(check)).value


class _TaskWaiter(Waiter):
    """A call of a task, which waits on a future."""

    __slots__ = ("woken",)

    def __init__(self, key: Key, part: JoinedPart, deadline: float, request_id: str) -> None:
        super().__init__(key, part, deadline, request_id)
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        if not self.woken.done():  # the task may have been cancelled, or its time be up
            self.woken.set_result(None)
