"""A sequence of the blocking client."""

import contextlib
import functools
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from time import sleep
from typing import Any, Self

import grpc

from onnxserve._prediction import Prediction
from onnxserve._sequence import Run, SequenceProtocol, State, Stop, break_off_deadline, cut_short
from onnxserve._tracing import Metadata
from onnxserve._watching import Watched
from onnxserve.errors import OnnxserveError, Unavailable
from onnxserve.tensor import Array

_NO_TURN = contextlib.nullcontext(True)


class ModelSequence:
    """Steps through a stateful model. Make one step at a time, from one thread; Client.sequence() returns this class.

    The server keeps the state, and frees it at the end of the `with` block. If the server stops, the state moves to
    another server with the next step. If the call itself fails, or a step is interrupted, the state is lost, and all
    further steps raise FailedPrecondition.
    """

    def __init__(
        self,
        open_call: Callable[[Iterator[bytes], Metadata], Any],
        turn: Callable[[float], AbstractContextManager[bool]],
        why_unsent: Callable[[str], Unavailable | None],
        protocol: SequenceProtocol,
    ) -> None:
        self._open_call = open_call
        self._turn = turn
        self._why_unsent = why_unsent
        self._protocol = protocol
        self._call: Any = None
        self._watched = Watched()
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    @property
    def state(self) -> State | None:
        """The state after the last step with snapshot=True; None: there was none."""
        return self._protocol.state

    def step(self, inputs: Mapping[str, Array], *, snapshot: bool = False) -> Prediction:
        """Run the model once, on the inputs and on the state after the previous step.

        An unfinished generation of the sequence is ended first.

        Args:
            inputs: the inputs, as for predict(), without those of the state.
            snapshot: True: `state` becomes the state after this step.

        Raises:
            FailedPrecondition: the server has evicted the state, or it was lost with the call or the previous step.
            Cancelled: the sequence or the client has been closed.
            OnnxserveError: the step failed; the state is as before.
            RuntimeError: another thread is waiting for a step.
        """
        with self._protocol.turn():
            return self._next(self._begin(inputs, snapshot=snapshot))

    def generate(
        self, inputs: Mapping[str, Array], *, max_steps: int, stop: Stop | None = None, snapshot: bool = False
    ) -> Iterator[Prediction]:
        """Run the model step by step, each time on the outputs of the step before; yield the answers as they arrive.

        Closing the iterator, or making another step, ends the steps; the state is then that after the last step that
        was run. Errors are those of step().

        Args:
            inputs: the inputs of the first step.
            max_steps: the limit of steps, from 1 to 10,000.
            stop: a condition on an output that ends the steps earlier; None: none.
            snapshot: True: `state` becomes the state after each step.
        """
        with self._protocol.turn():
            run = self._begin(inputs, snapshot=snapshot, max_steps=max_steps, stop=stop)
            prediction = self._next(run)
        try:
            while True:
                final = run.final  # of this answer: another step may break the run off meanwhile
                yield prediction
                if final:
                    return
                with self._protocol.turn():
                    self._protocol.check(run)
                    prediction = self._next(run)
        finally:
            if self._protocol.unfinished is run:
                with self._protocol.turn():
                    self._break_off(run)

    def close(self) -> None:
        """Close the sequence; the server frees its state."""
        if self._protocol.is_foreign:
            return
        self._protocol.close()
        self._drop_call()

    def __enter__(self) -> Self:
        """Return the sequence itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the sequence."""
        self.close()

    def _begin(
        self, inputs: Mapping[str, Array], *, snapshot: bool, max_steps: int | None = None, stop: Stop | None = None
    ) -> Run:
        if self._protocol.unfinished is not None:
            self._break_off(self._protocol.unfinished)
        return self._protocol.begin(inputs, snapshot=snapshot, max_steps=max_steps, stop=stop)

    def _next(self, run: Run) -> Prediction:
        """Return the next answer; the first answer may come from another server."""
        try:
            while True:
                try:
                    if run.call is not None:
                        return self._receive(run, self._protocol.deadline(run))
                    with self._turn(run.attempts.time_left) if run.attempts.broke else _NO_TURN as in_time:
                        if not in_time:
                            raise self._overdue(run)
                        self._send(run)
                        return self._receive(run, self._protocol.deadline(run))
                except grpc.RpcError as error:
                    if self._watched.expired:
                        raise self._overdue(run) from error
                    delay = self._protocol.delay_after(error, run)
                    self._drop_call()
                    sleep(delay)
        except BaseException as error:  # KeyboardInterrupt too
            if self._protocol.give_up(run):
                self._end_call(error)
            raise

    def _overdue(self, run: Run) -> OnnxserveError:
        unsent = self._why_unsent(run.request_id) if self._protocol.may_be_unsent(run) else None
        return unsent or self._protocol.overdue(run)

    def _send(self, run: Run) -> None:
        if self._watched.expired:  # in the moment in which the last answer came
            self._drop_call()
        call = self._call
        if call is None:
            self._protocol.check_start()
            self._requests = queue.SimpleQueue()
            call = self._call = self._open_call(iter(self._requests.get, None), self._protocol.headers())
            end = functools.partial(self._requests.put, None)  # or grpc's thread would wait forever
            if not call.add_callback(end):
                end()
            self._watched.follow(call)
        run.call = call
        self._requests.put(self._protocol.message(run))

    def _receive(self, run: Run, deadline: float) -> Prediction:
        """Return the next answer; the call is cancelled at the deadline."""
        while True:
            self._watched.arm(deadline)
            response = next(run.call, None)
            self._watched.disarm()
            if response is None:
                raise cut_short(run)
            prediction = self._protocol.take(run, response)
            if prediction is not None:
                return prediction

    def _break_off(self, run: Run) -> None:
        """Cancel a generation, and discard the answers to it that are on their way."""
        try:
            self._requests.put(run.cancel_message())
            deadline = break_off_deadline()
            while not run.final:
                self._receive(run, deadline)
        except (grpc.RpcError, OnnxserveError):
            pass  # nobody wants these steps; if the call has ended, the next step raises its error
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
