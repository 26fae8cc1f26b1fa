"""The blocking client."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Self

import grpc

from onnxserve import _counting, _tracing
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
from onnxserve._blocking_sequence import ModelSequence
from onnxserve._call import PredictCall
from onnxserve._channel import SERVING, health_request
from onnxserve._forking import check_process, forks
from onnxserve._joining import JoinedPart, Key
from onnxserve._messages import MessageSource
from onnxserve._models import ModelInfo, model_info
from onnxserve._prediction import Prediction, read_prediction
from onnxserve._retrying import Attempts, Failed, retry_delay
from onnxserve._sequence import SequenceProtocol, State, Stop
from onnxserve._stream import DEFAULT_WINDOW, Unanswered, checked
from onnxserve._turns import TURNS
from onnxserve._waiting import Batch, Waiter
from onnxserve._watching import Watched
from onnxserve._wire import check_model, predict_request
from onnxserve.errors import OnnxserveError, Unavailable, from_rpc_error, of_request
from onnxserve.tensor import Array
from onnxserve.v1 import model_service_pb2


class Client(BaseClient):
    """Calls a server and waits for the answers. Safe to share between threads: make one client and keep it.

    Every call raises a subclass of OnnxserveError when it fails. Use the client in a `with` statement, or close it.
    """

    def predict(
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
        """Run a model once.

        Args:
            model: the model's name.
            inputs: an array for each input of the model, by name. Each must have the model's dtype: values are sent
                unchanged.
            outputs: the names of the outputs wanted, at least one; None: all.
            version: the version to run; None: the server's default, its newest.
            timeout: seconds for the whole call, retries included; the server does not start a request that it cannot
                finish in time. None: no limit.
            priority: from -10 to 10; waiting requests of a higher priority go first.
            request_id: the request's name in errors and in the server's log; None: the client makes one up, and may
                join the call with others (see `coalesce`).

        Raises:
            TypeError: an input is not a numpy array, or has a dtype that the protocol lacks, or another argument is of
                another type.
            ValueError: outputs is empty, or an argument is beyond its limits.
            OnnxserveError: the call failed.
        """
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
                return self._predict(call, span.metadata)
        if (key := self._key(call)) is None:
            return self._predict(call)
        waiter = self._enter(key, call)
        if waiter is not None and (prediction := self._wait(waiter)) is not None:
            return prediction
        try:
            if waiter is None:
                return self._predict(call)
            return self._predict(self._after_waiting(call, waiter), failed=self._failed_before(waiter))
        finally:
            self._coalescer.finish(key)

    def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, Array]],
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        priority: int = 0,
        window: int = DEFAULT_WINDOW,
        return_errors: bool = False,
    ) -> Iterator[Prediction | OnnxserveError]:
        """Send many requests without waiting for each answer; yield the answers in the order of the requests.

        All requests travel on one gRPC call. If it breaks, or its server stops, the unanswered requests are sent again
        on another call.

        Args:
            model: the model's name.
            inputs: the inputs of each request, as for predict(). They are iterated on another thread, as `window`
                allows.
            outputs: the names of the outputs wanted, at least one; None: all.
            version: the version to run; None: the server's default, its newest.
            timeout: seconds for each request, counted from its arrival at the server. None: no limit.
            priority: from -10 to 10; waiting requests of a higher priority go first.
            window: the number of requests that may wait for their answers at a time.
            return_errors: True: the error of a request is yielded in place of its answer, and the stream goes on.
                False: it is raised, and ends the stream.

        Raises:
            OnnxserveError: a request failed, or the call failed and could not be replaced.
            Exception: whatever iterating `inputs` raises, after the answers to the requests before.
        """
        watched = Watched()
        unanswered = Unanswered(window, self._policy, self._check(timeout), watched)
        call = PredictCall(model=model, inputs={}, outputs=outputs, version=version, timeout=timeout, priority=priority)
        requests = (self._stream_request(call, each) for each in inputs)
        return self._stream(model, MessageSource(requests, unanswered), unanswered, watched, return_errors)

    def _stream(
        self, model: str, source: MessageSource, unanswered: Unanswered, watched: Watched, return_errors: bool
    ) -> Iterator[Prediction | OnnxserveError]:
        """Yield the outcome of each request, over as many calls as it takes."""
        with contextlib.closing(source), _tracing.start_stream(model) as span:
            while True:
                self._check(None)
                for error in self._overdue(source, unanswered):
                    yield checked(error, return_errors)
                if unanswered.ended:
                    break
                rpc = self._open_stream(source.messages(), span.metadata)
                watched.follow(rpc)
                try:
                    while (response := self._read(rpc, source, unanswered, watched)) is not None:
                        with source.changed:
                            outcome = unanswered.answer(response)
                            source.changed.notify_all()
                        yield checked(outcome, return_errors)
                    unanswered.check_empty()
                    break
                except grpc.RpcError as error:
                    failed = error
                finally:
                    if self._forks == forks():  # a child of the process leaves the call to it
                        rpc.cancel()
                if watched.expired:
                    continue
                with source.changed:
                    delay = unanswered.after(self._policy.judge(failed))
                if isinstance(delay, OnnxserveError):
                    yield checked(delay, return_errors)
                elif self._closing.wait(delay):
                    raise closed()
            if source.failure is not None:
                raise source.failure

    def _read(self, rpc: Any, source: MessageSource, unanswered: Unanswered, watched: Watched) -> Any:
        """Return the next answer of a call, which is cancelled when the answer is overdue; None: the call has ended."""
        check_process(self._forks)
        if not unanswered.one_by_one:
            unanswered.wait()
            return next(rpc, None)
        with self._turn(unanswered.time_left) as has_connection:
            if not has_connection:
                watched.expire()
            elif rpc.is_active():  # or the request would count as sent
                with source.changed:
                    unanswered.wait()
                    source.changed.notify_all()
            return next(rpc, None)

    def _overdue(self, source: MessageSource, unanswered: Unanswered) -> list[OnnxserveError]:
        """Return the errors of the requests of a stream whose answers are overdue; they are not sent again."""
        with source.changed:
            overdue = unanswered.expire()
        unsent = self._why_unsent() if overdue else None
        return overdue if unsent is None else [of_request(unsent, each.request_id) for each in overdue]

    def _open_stream(self, messages: Iterator[bytes], headers: _tracing.Metadata) -> Any:
        return self._methods.stream(messages, metadata=(*self._metadata, *headers), wait_for_ready=self._policy.waits)

    def sequence(
        self,
        model: str,
        *,
        outputs: Sequence[str] | None = None,
        version: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        priority: int = 0,
        state: State | None = None,
    ) -> ModelSequence:
        """Return a sequence of steps through a stateful model; the server keeps the state between steps.

        Args:
            model: the model's name; its model.yaml declares the state.
            outputs: the names of the outputs wanted of each step; None: all but the state.
            version: the version to run; None: the server's default, its newest.
            timeout: seconds for each step, or for all steps of one generate(), counted from the request's arrival at
                the server. None: no limit.
            priority: from -10 to 10; waiting requests of a higher priority go first.
            state: the state to start from, such as another sequence's `state`; None: the model's initial state.
        """
        call = PredictCall(model=model, inputs={}, outputs=outputs, version=version, timeout=timeout, priority=priority)
        return self._sequence(self._protocol(call, state=state))

    def generate(
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
    ) -> Iterator[Prediction]:
        """Run a model step by step, each time on the outputs of the step before; yield the answers as they arrive.

        No state is kept afterwards, so the model need not have one; to continue from the last step use sequence().
        Closing the iterator ends the steps.

        Args:
            model: the model's name; its model.yaml declares which outputs are fed back.
            inputs: the inputs of the first step, as for predict(), without those of the state.
            max_steps: the limit of steps, from 1 to 10,000.
            stop: a condition on an output that ends the steps earlier; None: none.
            outputs: the names of the outputs wanted of each step; None: all but the state.
            version: the version to run; None: the server's default, its newest.
            timeout: seconds for all steps, counted from the request's arrival at the server. None: no limit.
            priority: from -10 to 10; waiting requests of a higher priority go first.

        Raises:
            OnnxserveError: a step failed, or the call failed after the first answer.
        """
        call = PredictCall(model=model, inputs={}, outputs=outputs, version=version, timeout=timeout, priority=priority)
        with self._sequence(self._protocol(call, keeps_state=False)) as sequence:
            yield from sequence.generate(inputs, max_steps=max_steps, stop=stop)

    def models(self, *, timeout: float | None = DEFAULT_TIMEOUT) -> list[ModelInfo]:
        """Return every version of every model, ordered by name, then version, oldest first."""
        response = self._call(self._methods.list_models, model_service_pb2.ListModelsRequest(), timeout)
        return [*map(model_info, response.models)]

    def model(self, name: str, version: str | None = None, *, timeout: float | None = DEFAULT_TIMEOUT) -> ModelInfo:
        """Return one version of a model; `version` None: the one that predict() would use."""
        check_model(name, version)
        request = model_service_pb2.GetModelRequest(model=name, version=version)
        return model_info(self._call(self._methods.get_model, request, timeout).model)

    def ready(self, model: str | None = None, *, timeout: float | None = READY_TIMEOUT) -> bool:
        """Return whether the server, or one of its models, accepts requests; False if the server is unreachable."""
        try:
            return bool(self._check_health(model, self._check(timeout)) == SERVING)
        except grpc.RpcError as error:
            if error.code() in NOT_READY:
                return False
            raise from_rpc_error(error) from error

    def close(self) -> None:
        """Close the connections; calls in flight are cancelled. In a child of the client's process nothing happens."""
        if self._forks != forks():
            return
        self._closed = True
        self._closing.set()
        self._channel.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    def _open(self, target: str, credentials: grpc.ChannelCredentials | None, **kwargs: Any) -> Any:
        self._closing = threading.Event()
        if credentials is None:
            return grpc.insecure_channel(target, **kwargs)
        return grpc.secure_channel(target, credentials, **kwargs)

    def _sequence(self, protocol: SequenceProtocol) -> ModelSequence:
        return ModelSequence(self._open_stream, self._turn, self._why_unsent, protocol)

    def _predict(self, call: PredictCall, headers: _tracing.Metadata = (), failed: Failed | None = None) -> Prediction:
        request_id = self._new_id() if call.request_id is None else call.request_id
        request = predict_request(call, request_id)
        response = self._call(self._methods.predict, request, call.timeout, request_id, headers, failed=failed)
        return read_prediction(response, request_id, call.outputs)

    def _wait(self, waiter: "_ThreadWaiter") -> Prediction | None:
        """Return the answer to a call that is joined with others; None: the call is to be sent alone."""
        try:
            if waiter.is_first and not waiter.wait(min(self._coalescer.max_wait, waiter.time_left)):
                self._coalescer.flush(waiter)
            waiter.wait(waiter.time_left)
        except BaseException:  # KeyboardInterrupt
            self._coalescer.abandon(waiter)
            raise
        return self._take(waiter)

    def _make_waiter(self, key: Key, part: JoinedPart, deadline: float, request_id: str) -> "_ThreadWaiter":
        return _ThreadWaiter(key, part, deadline, request_id)

    def _send(self, batch: Batch) -> None:
        try:
            call: Any = self._methods.predict.future(
                batch.message(self._new_id()),
                timeout=batch.timeout,
                metadata=self._metadata,
                wait_for_ready=self._policy.waits,
            )
        except Exception:  # the client has been closed
            self._coalescer.each_alone(batch)
        else:
            batch.call = call
            if batch.abandoned:  # before there was anything to cancel
                call.cancel()
            call.add_done_callback(functools.partial(self._returned, batch))

    def _send_later(self, batch: Batch, seconds: float) -> None:
        def send() -> None:
            self._closing.wait(seconds)
            self._send(batch)

        threading.Thread(target=send, name="onnxserve-retry", daemon=True).start()

    def _returned(self, batch: Batch, call: Any) -> None:
        try:
            if call.code() is grpc.StatusCode.OK:
                self._answered(batch, call.result())
            else:
                self._failed(batch, self._policy.judge(call))
        except Exception:  # or the calls would wait for ever
            self._coalescer.each_alone(batch)

    def _ask(self, model: str, version: str | None) -> None:
        def learn(call: Any) -> None:
            info = model_info(call.result().model) if call.code() is grpc.StatusCode.OK else None
            self._coalescer.learn(model, version, info)

        request = model_service_pb2.GetModelRequest(model=model, version=version)
        try:
            call = self._methods.get_model.future(
                request, timeout=DEFAULT_TIMEOUT, metadata=self._metadata, wait_for_ready=self._policy.waits
            )
        except Exception:  # the client has been closed
            self._coalescer.learn(model, version, None)
        else:
            call.add_done_callback(learn)

    def _call(
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
            if failed is not None and self._closing.wait(attempts.delay_after(failed)):
                raise closed()
            try:
                if attempts.broke:
                    with self._turn(attempts.time_left):
                        response = send(timeout=attempts.timeout)
                else:
                    response = send(timeout=attempts.timeout)
            except grpc.RpcError as error:
                if attempts.may_be_unsent(error) and (unsent := self._why_unsent(request_id)):
                    raise unsent from error
                failed = self._policy.judge(error, request_id)
            else:
                self._policy.note_answer()
                return response

    @contextlib.contextmanager
    def _turn(self, seconds: float) -> Iterator[bool]:
        """Wait for a turn and a connection, and hold the turn in the block; False: the time is over without them.

        While there is no connection, nobody has the turn: the others would wait for it no longer than they do, and be
        sent all together once there is one.
        """
        deadline, failures = monotonic() + seconds, 0
        while (left := deadline - monotonic()) > 0:
            self._check(None)
            with TURNS.turn(left):
                if self._has_connection(left):
                    yield True
                    return
            failures += 1
            self._closing.wait(min(left, retry_delay(failures)))
        yield False

    def _has_connection(self, seconds: float) -> bool:
        try:
            self._check_health(None, min(seconds, CONNECTION_TIMEOUT))
        except grpc.RpcError as error:
            return error.code() not in NOT_CONNECTED
        return True

    def _why_unsent(self, request_id: str = "", timeout: float = PROBE_TIMEOUT) -> Unavailable | None:
        """Return the error of a call that was not sent, as there is no connection; None: there is one."""
        try:
            self._check_health(None, timeout)
        except grpc.RpcError as probe:
            return self._unsent(probe, request_id)
        return None

    def _check_health(self, model: str | None, timeout: float | None) -> Any:
        # Never sent again, and without waiting for a connection: it reports the present state.
        return self._methods.check(health_request(model), timeout=timeout, metadata=self._metadata).value


class _ThreadWaiter(Waiter):
    """A call of a thread, which waits on a lock."""

    __slots__ = ("_woken",)

    def __init__(self, key: Key, part: JoinedPart, deadline: float, request_id: str) -> None:
        super().__init__(key, part, deadline, request_id)
        self._woken = threading.Lock()
        self._woken.acquire()

    def wake(self) -> None:
        self._woken.release()

    def wait(self, seconds: float) -> bool:
        """Wait for an outcome, at most `seconds`; return whether there is one."""
        return self.outcome is not None or self._woken.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
