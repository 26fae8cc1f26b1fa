"""The blocking client."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import grpc

from onnxserve import _counting, _tracing
from onnxserve._base import DEFAULT_TIMEOUT, NOT_READY, READY_TIMEOUT, BaseClient
from onnxserve._blocking_sequence import ModelSequence
from onnxserve._call import PredictCall
from onnxserve._channel import SERVING, health_request
from onnxserve._coalescing import Batch, Member
from onnxserve._joining import Key, Share
from onnxserve._models import ModelInfo, model_info
from onnxserve._prediction import Prediction
from onnxserve._sequence import Course, State, Stop
from onnxserve._stream import DEFAULT_WINDOW, Feed, Unanswered
from onnxserve._wire import predict_request
from onnxserve.errors import OnnxserveError, from_rpc_error
from onnxserve.tensor import Array
from onnxserve.v1 import model_service_pb2


class Client(BaseClient):
    """Calls a server and waits for the answers. Safe to share between threads; make one and keep it.

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
            model: its name.
            inputs: an array for each input of the model, of the model's own dtype: values are sent as they are.
            outputs: the names of the outputs wanted; None: all.
            version: the version to run; None: the one that the server prefers, its newest.
            timeout: seconds for everything, retries included; the server does not begin what it cannot finish by
                then. None: no limit.
            priority: from -10 to 10; of requests that wait, the higher go first.
            request_id: the request's name in errors and in the server's log; None: a new one, and the call may travel
                with others (see `coalesce`).

        Raises:
            TypeError: an input that is not a numpy array, or of a type that has no counterpart on the wire.
            OnnxserveError: the call failed.
        """
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
        member = self._enter(key, call)
        if member is not None and (prediction := self._wait(member)) is not None:
            return prediction
        try:
            return self._predict(call if member is None else self._after_waiting(call, member))
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
        """Run a model on one request after the other without waiting for each; give the answers in the same order.

        All travel on one call. When it breaks, or its server stops, the requests that were not answered are sent
        again on another one.

        Args:
            model: its name.
            inputs: the inputs of each request, as for predict(). They are taken, on another thread, as there is room.
            outputs: the names of the outputs wanted; None: all.
            version: the version to run; None: the one that the server prefers, its newest.
            timeout: seconds for each request, from its arrival at the server. None: no limit.
            priority: from -10 to 10; of requests that wait, the higher go first.
            window: most requests that may wait for their answers at a time.
            return_errors: whether the error of a request stands in the place of its answer. Else it is raised, and ends
                the stream.

        Raises:
            OnnxserveError: a request failed, or the call did and could not be replaced.
            Exception: whatever `inputs` raises; the answers to what it gave before come first.
        """
        unanswered = Unanswered(window, self._retries)
        call = PredictCall(model=model, inputs={}, outputs=outputs, version=version, timeout=timeout, priority=priority)
        requests = (self._stream_request(call, each) for each in inputs)
        return self._stream(model, Feed(requests, unanswered), unanswered, return_errors)

    def _stream(
        self, model: str, feed: Feed, unanswered: Unanswered, return_errors: bool
    ) -> Iterator[Prediction | OnnxserveError]:
        with contextlib.closing(feed), _tracing.start_stream(model) as span:
            while True:
                self._check(None)
                rpc = self._methods.stream(feed.messages(), metadata=(*self._metadata, *span.metadata))
                try:
                    for response in rpc:
                        with feed.changed:
                            outcome = unanswered.answer(response)
                            feed.changed.notify_all()
                        if isinstance(outcome, OnnxserveError) and not return_errors:
                            raise outcome
                        yield outcome
                    unanswered.check_empty()
                    break
                except grpc.RpcError as error:
                    with feed.changed:
                        delay = unanswered.delay_after(error)
                    if delay is None:
                        raise from_rpc_error(error) from error
                    threading.Event().wait(delay)
                finally:
                    rpc.cancel()
            if feed.failure is not None:
                raise feed.failure

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
        """Return a sequence of steps through a stateful model, whose state the server keeps.

        Args:
            model: its name; its model.yaml says what its state is.
            outputs: the names of the outputs wanted of each step; None: all but the state.
            version: the version to run; None: the one that the server prefers, its newest.
            timeout: seconds for each step, or for all steps of a generate(), from its arrival at the server. None: no
                limit.
            priority: from -10 to 10; of requests that wait, the higher go first.
            state: what to start with; None: the model's initial state.
        """
        call = PredictCall(model=model, inputs={}, outputs=outputs, version=version, timeout=timeout, priority=priority)
        return self._sequence(self._course(call, state=state))

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
        """Run a model several times, each time on what it gave before; give the answers as they come.

        No state is kept afterwards, so the model need not have any; to go on from where it ended see sequence(). Who
        breaks off the iteration ends the steps.

        Args:
            model: its name; its model.yaml says what is fed back.
            inputs: of the first step, as for predict(), without the state's.
            max_steps: most steps, from 1 to 10,000.
            stop: what ends them before.
            outputs: the names of the outputs wanted of each step; None: all but the state.
            version: the version to run; None: the one that the server prefers, its newest.
            timeout: seconds for all steps, from the request's arrival at the server. None: no limit.
            priority: from -10 to 10; of requests that wait, the higher go first.

        Raises:
            OnnxserveError: a step failed, or the call did after the first answer.
        """
        call = PredictCall(model=model, inputs={}, outputs=outputs, version=version, timeout=timeout, priority=priority)
        with self._sequence(self._course(call, keeps_state=False)) as sequence:
            yield from sequence.generate(inputs, max_steps=max_steps, stop=stop)

    def models(self, *, timeout: float | None = DEFAULT_TIMEOUT) -> list[ModelInfo]:
        """Return every version of every model, by name, then version, oldest first."""
        response = self._call(self._methods.list_models, model_service_pb2.ListModelsRequest(), timeout)
        return [*map(model_info, response.models)]

    def model(self, name: str, version: str | None = None, *, timeout: float | None = DEFAULT_TIMEOUT) -> ModelInfo:
        """Return one version of a model; None: the one that predict would use."""
        request = model_service_pb2.GetModelRequest(model=name, version=version)
        return model_info(self._call(self._methods.get_model, request, timeout).model)

    def ready(self, model: str | None = None, *, timeout: float | None = READY_TIMEOUT) -> bool:
        """Return whether the server, or one of its models, takes requests now; False when it cannot be reached."""
        try:
            return bool(self._call(self._methods.check, health_request(model), timeout).value == SERVING)
        except OnnxserveError as error:
            if error.code in NOT_READY:
                return False
            raise

    def close(self) -> None:
        """Close the connections; calls that still wait are cancelled."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    def _open(self, target: str, credentials: grpc.ChannelCredentials | None, **kwargs: Any) -> Any:
        if credentials is None:
            return grpc.insecure_channel(target, **kwargs)
        return grpc.secure_channel(target, credentials, **kwargs)

    def _sequence(self, course: Course) -> ModelSequence:
        def open_call(messages: Iterator[bytes], headers: _tracing.Metadata) -> Any:
            return self._methods.stream(messages, metadata=(*self._metadata, *headers))

        return ModelSequence(open_call, course)

    def _predict(self, call: PredictCall, headers: _tracing.Metadata = ()) -> Prediction:
        request_id = self._new_id() if call.request_id is None else call.request_id
        request = predict_request(call, request_id)
        return Prediction(self._call(self._methods.predict, request, call.timeout, request_id, headers))

    def _wait(self, member: "_Waiting") -> Prediction | None:
        """Return the answer to a call that travels with others; None: it is to be sent alone."""
        try:
            if member.is_first and not member.wait(min(self._coalescer.patience, member.time_left)):
                self._coalescer.hurry(member)
            member.wait(member.time_left)
        except BaseException:  # KeyboardInterrupt
            self._coalescer.abandon(member)
            raise
        return self._take(member)

    def _member(self, key: Key, share: Share, deadline: float, request_id: str) -> "_Waiting":
        return _Waiting(key, share, deadline, request_id)

    def _send(self, batch: Batch) -> None:
        request_id = self._new_id()
        try:
            call: Any = self._methods.predict.future(
                batch.message(request_id), timeout=batch.timeout, metadata=self._metadata
            )
        except Exception as error:  # the client has been closed
            self._coalescer.failed(batch, error)
        else:
            batch.call = call
            if batch.abandoned:  # before there was anything to cancel
                call.cancel()
            call.add_done_callback(functools.partial(self._returned, batch))

    def _returned(self, batch: Batch, call: Any) -> None:
        if call.code() is grpc.StatusCode.OK:
            self._coalescer.answered(batch, call.result())
        else:
            error = from_rpc_error(call)
            error.__cause__ = call
            self._coalescer.failed(batch, error)

    def _ask(self, model: str, version: str | None) -> None:
        def told(call: Any) -> None:
            info = model_info(call.result().model) if call.code() is grpc.StatusCode.OK else None
            self._coalescer.learn(model, version, info)

        request = model_service_pb2.GetModelRequest(model=model, version=version)
        try:
            call = self._methods.get_model.future(request, timeout=DEFAULT_TIMEOUT, metadata=self._metadata)
        except Exception:  # the client has been closed
            self._coalescer.learn(model, version, None)
        else:
            call.add_done_callback(told)

    def _call(
        self,
        method: Callable[..., Any],
        request: Any,
        timeout: float | None,
        request_id: str = "",
        headers: _tracing.Metadata = (),
    ) -> Any:
        try:
            return method(request, timeout=self._check(timeout), metadata=(*self._metadata, *headers))
        except grpc.RpcError as error:
            raise from_rpc_error(error, request_id) from error


class _Waiting(Member):
    """A call whose thread waits."""

    __slots__ = ("_told",)

    def __init__(self, key: Key, share: Share, deadline: float, request_id: str) -> None:
        super().__init__(key, share, deadline, request_id)
        self._told = threading.Lock()
        self._told.acquire()

    def wake(self) -> None:
        self._told.release()

    def wait(self, seconds: float) -> bool:
        """Wait for an outcome, so long at most; return whether there is one."""
        return self.outcome is not None or self._told.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))
