"""A sequence of the blocking client."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import grpc

from onnxserve._prediction import Prediction
from onnxserve._sequence import Course, State, Stop, cancel_message, cut_short
from onnxserve.errors import from_rpc_error
from onnxserve.tensor import Array


class ModelSequence:
    """The steps of one caller through a stateful model. One step at a time; not to be shared between threads.

    The server keeps the state and frees it at the end of the `with` block. When it stops, the state moves to another
    server with the next step.
    """

    def __init__(self, open_call: Callable[[Iterator[bytes]], Any], course: Course) -> None:
        self._open_call = open_call
        self._course = course
        self._call: Any = None
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    @property
    def state(self) -> State | None:
        """The state after the last step that was asked for a snapshot; None: none was."""
        return self._course.state

    def step(self, inputs: Mapping[str, Array], *, snapshot: bool = False) -> Prediction:
        """Run the model once, on the inputs and the state after the step before.

        Args:
            inputs: as for predict(), without the state's.
            snapshot: whether `state` is to be the state after this step.

        Raises:
            FailedPrecondition: the server has given up the state, or it was lost with the connection.
            OnnxserveError: the step failed; the state is as before.
        """
        *_, prediction = self._run(inputs, snapshot=snapshot)
        return prediction

    def generate(
        self, inputs: Mapping[str, Array], *, max_steps: int, stop: Stop | None = None, snapshot: bool = False
    ) -> Iterator[Prediction]:
        """Run the model several times, each time on what it gave before; give the answers as they come.

        Who breaks off the iteration ends the steps, and the state is the one after the last that was run.

        Args:
            inputs: of the first step.
            max_steps: most steps, from 1 to 10,000.
            stop: what ends them before.
            snapshot: whether `state` is to be the state after each step.
        """
        return self._run(inputs, snapshot=snapshot, most=max_steps, stop=stop)

    def close(self) -> None:
        """End the sequence and free its state."""
        self._requests.put(None)
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def __enter__(self) -> Self:
        """Return the sequence itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the sequence."""
        self.close()

    def _run(
        self, inputs: Mapping[str, Array], *, snapshot: bool, most: int | None = None, stop: Stop | None = None
    ) -> Iterator[Prediction]:
        while True:
            request_id, message = self._course.message(inputs, snapshot=snapshot, most=most, stop=stop)
            if self._call is None:
                self._requests = queue.SimpleQueue()
                self._call = self._open_call(iter(self._requests.get, None))
            self._requests.put(message)
            try:
                yield from self._answers(request_id)
            except grpc.RpcError as error:
                self._requests.put(None)
                self._call = None
                delay = self._course.delay_after(error)
                if delay is None:
                    raise from_rpc_error(error, request_id) from error
                threading.Event().wait(delay)
            else:
                return

    def _answers(self, request_id: str) -> Iterator[Prediction]:
        final = False
        try:
            while not final:
                response = next(self._call, None)
                if response is None:
                    raise cut_short(request_id)
                prediction = self._course.take(response, request_id)
                final = response.final
                if prediction is not None:
                    yield prediction
        except GeneratorExit:
            self._requests.put(cancel_message(request_id))
            while not final and (response := next(self._call, None)) is not None:
                final = response.final
            raise
