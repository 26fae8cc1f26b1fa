"""The requests of one stream, answered one after the other: single ones, steps of sequences, and several steps each."""

from collections.abc import Callable, Iterator

import numpy as np

from onnxserve.errors import OnnxserveError
from onnxserve.tensor import Array
from onnxserve.testing._models import Function, Model
from onnxserve.testing._requests import Request, answer, invalid
from onnxserve.testing._status import status_of
from onnxserve.v1 import inference_service_pb2 as inference

Read = Callable[[inference.PredictRequest], tuple[Request, dict[str, Array]]]
Run = Callable[[Function, dict[str, Array], Request], dict[str, Array]]

_MAX_STEPS = 10_000


class Stream:
    """The state of one stream.

    Args:
        find: returns a model by name and version, or raises NotFound.
        read: returns a request and its inputs.
        run: returns the outputs of a function.
    """

    def __init__(self, find: Callable[[str, str], Model], read: Read, run: Run) -> None:
        self._find = find
        self._read = read
        self._run = run
        self._sequences: dict[str, Function] = {}

    def answers(self, message: inference.StreamRequest) -> Iterator[inference.StreamResponse]:
        """Yield the answers to a request; an error is the last one."""
        if message.WhichOneof("kind") != "predict":  # a cancellation: each request has been answered before the next
            return
        request_id = message.predict.request_id
        try:
            yield from self._steps(message)
        except OnnxserveError as error:
            yield inference.StreamResponse(request_id=request_id, error=status_of(error, request_id), final=True)
        finally:
            if message.sequence.end:
                self._sequences.pop(message.sequence.id, None)

    def _steps(self, message: inference.StreamRequest) -> Iterator[inference.StreamResponse]:
        model = self._find(message.predict.model, message.predict.version)
        request, inputs = self._read(message.predict)
        function = self._function(message, model)
        count = _count(message)
        for step in range(count):
            outputs = self._run(function, inputs, request)
            is_last = step + 1 == count or _is_at_stop(message, outputs)
            yield inference.StreamResponse(
                request_id=request.request_id,
                response=answer(outputs, request, model.version),
                step=step,
                final=is_last,
            )
            if is_last:
                return
            inputs = inputs | {name: outputs[output] for output, name in model.feedback.items()}

    def _function(self, message: inference.StreamRequest, model: Model) -> Function:
        if not message.HasField("sequence"):
            return model.begin()
        if message.sequence.snapshot or message.sequence.HasField("state"):
            raise invalid("sequence", "the test server keeps state in Python objects, and has no snapshots of it")
        if model.sequence is None:
            raise invalid("sequence", f"model {message.predict.model!r} has no state; give its Model a sequence")
        if message.sequence.id not in self._sequences:
            self._sequences[message.sequence.id] = model.begin()
        return self._sequences[message.sequence.id]


def _count(message: inference.StreamRequest) -> int:
    if not message.HasField("steps"):
        return 1
    if not 1 <= message.steps.max <= _MAX_STEPS:
        raise invalid("steps.max", f"must be from 1 to {_MAX_STEPS}, not {message.steps.max}")
    return message.steps.max


def _is_at_stop(message: inference.StreamRequest, outputs: dict[str, Array]) -> bool:
    if not message.steps.HasField("stop"):
        return False
    stop = message.steps.stop
    if stop.output not in outputs:
        names = ", ".join(map(repr, outputs))
        raise invalid("steps.stop.output", f"unknown output {stop.output!r}; the model's outputs are {names}")
    array = outputs[stop.output]
    return bool(np.all(array == stop.value if stop.HasField("value") else array != 0))
