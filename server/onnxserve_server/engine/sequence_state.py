"""The state of a sequence and the feedback of its steps: outputs of one run that are inputs of the next."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxserve.tensor import STORAGE, Array
from onnxserve_server.core import Request, Result, Snapshot, Step
from onnxserve_server.engine.admission import ServerInputs, read_tensor
from onnxserve_server.errors import InvalidRequest, ModelRunFailed, Violation
from onnxserve_server.spec import ModelSpec, StatePair, TensorSpec

logger = logging.getLogger(__name__)

State = tuple[Array, ...]
"""One array for each state pair of the model, in its order."""


class StepOutcome(NamedTuple):
    """What a run gives: the answer, the state after it, the next run's feedback inputs, and whether to stop."""

    result: Result
    state: State
    fed: Mapping[int, Array]
    stops: bool


class States:
    """Makes and checks the states of one model."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._pairs = spec.state
        self._positions = {tensor.name: i for i, tensor in enumerate(spec.inputs)}
        # The input that tells how many rows a step has: the first that the caller sends and that has a batch axis.
        state = {pair.input.name for pair in self._pairs}
        self._counted = next(
            (tensor for tensor in spec.inputs if tensor.name not in state and tensor.batch_axis is not None), None
        )
        self._outputs = tuple(pair.output for pair in self._pairs)
        self._answered = tuple(output for output in spec.outputs if output not in self._outputs)

    def server_inputs(self, state: State, fed: Mapping[int, Array], step: Step) -> ServerInputs:
        """Return what the server itself adds to a run: the state, what is fed back, and the outputs for the next run.

        Raises:
            InvalidRequest: the step wants several runs of a model that does not declare feedback, or the stop output is
                none of the model's.
        """
        inputs = {self._positions[pair.input.name]: array for pair, array in zip(self._pairs, state, strict=True)}
        outputs = self._outputs
        if step.max_steps is not None:
            outputs += self._for_steps(step)
        return ServerInputs({**inputs, **fed}, self._answered, outputs)

    def _for_steps(self, step: Step) -> tuple[TensorSpec, ...]:
        if not self._spec.feedback:
            message = f"model {self._spec.name!r} declares no feedback, so it cannot run several steps"
            raise InvalidRequest([Violation("steps", message)])
        fed = tuple(feedback.output for feedback in self._spec.feedback)
        if step.stop is None:
            return fed
        for output in self._spec.outputs:
            if output.name == step.stop.output:
                return (*fed, output)
        names = ", ".join(repr(output.name) for output in self._spec.outputs)
        message = f"unknown output {step.stop.output!r}; the model's outputs are {names}"
        raise InvalidRequest([Violation("steps.stop.output", message)])

    def initial(self, request: Request) -> State:
        """Return the state before a first step, of as many rows as the step has.

        Raises:
            InvalidRequest: it would take more bytes than a request that brings it may have.
        """
        rows, limit = self._rows(request), self._spec.batching.max_queue_bytes
        nbytes = state_nbytes(self._spec, rows)
        if nbytes > limit:
            message = f"a state of {rows} rows ({nbytes} bytes) exceeds max_queue_bytes ({limit})"
            raise InvalidRequest([Violation("inputs", message)], model=self._spec.name, version=self._spec.version)
        return tuple(_initial(pair, rows) for pair in self._pairs)

    def read(self, snapshot: Snapshot) -> State:
        """Return a state that a caller brings.

        Raises:
            InvalidRequest: it is of another model or version, or does not fit this one.
        """
        faults: list[Violation] = []
        if snapshot.model != self._spec.name:
            message = f"the state is of model {snapshot.model!r}, not {self._spec.name!r}"
            faults.append(Violation("sequence.state.model", message))
        if snapshot.version not in ("", self._spec.version):
            message = (
                f"the state is of version {snapshot.version!r} of the model, not {self._spec.version!r}, "
                "and can be continued only by the version that made it; start a new sequence"
            )
            faults.append(Violation("sequence.state.version", message))
        arrays: dict[str, Array | None] = {}
        wanted = {pair.input.name: pair.input for pair in self._pairs}
        for i, tensor in enumerate(snapshot.tensors):
            path = f"sequence.state.tensors[{i}]"
            if tensor.name in wanted and tensor.name not in arrays:
                arrays[tensor.name] = read_tensor(tensor, wanted[tensor.name], path, faults)
            else:
                problem = "given twice" if tensor.name in wanted else "not a state of the model"
                message = f"{tensor.name!r} is {problem}; the model's state is {', '.join(wanted)}"
                faults.append(Violation(f"{path}.name", message))
        if missing := [name for name in wanted if name not in arrays]:
            faults.append(Violation("sequence.state.tensors", f"{', '.join(missing)} missing"))
        if faults:
            raise InvalidRequest(faults, model=self._spec.name, version=self._spec.version)
        return tuple(array for pair in self._pairs if (array := arrays[pair.input.name]) is not None)

    def outcome(self, result: Result, before: State, step: Step) -> StepOutcome:
        """Take a run's outputs apart.

        What goes on is copied: a view would keep the outputs of the whole batch.

        Raises:
            ModelRunFailed: an output does not fit the input that it is to be.
        """
        feedback = self._spec.feedback if step.max_steps is not None else ()
        stop = step.stop if step.max_steps is not None else None
        answered = len(result.outputs) - len(self._pairs) - len(feedback) - (stop is not None)
        arrays = iter([array for _, array in result.outputs[answered:]])
        state = tuple(next(arrays).copy() for _ in self._pairs)
        for pair, old, new in zip(self._pairs, before, state, strict=True):
            if not _fits(pair.input, old, new):
                message = f"the state {pair.output.name} has the shape {list(new.shape)}, which does not fit its input"
                raise ModelRunFailed(message, model=self._spec.name, version=self._spec.version)
        fed = {self._positions[each.input.name]: next(arrays).copy() for each in feedback}
        stops = stop is not None and _is_met(next(arrays), stop.value)
        return StepOutcome(result._replace(outputs=result.outputs[:answered]), state, fed, stops)

    def without_fed(self, request: Request) -> Request:
        """Return a request without the inputs that are fed back."""
        fed = {each.input.name for each in self._spec.feedback}
        return request._replace(inputs=[tensor for tensor in request.inputs if tensor.name not in fed])

    def described(self, state: State) -> Sequence[tuple[TensorSpec, Array]]:
        """Return a state with the inputs that it is for."""
        return [(pair.input, array) for pair, array in zip(self._pairs, state, strict=True)]

    def _rows(self, request: Request) -> int:
        """Return how many rows a step has; 1 where its input is missing or does not fit, which admission finds."""
        counted = self._counted
        if counted is None or counted.batch_axis is None:
            return 1
        tensor = next((tensor for tensor in request.inputs if tensor.name == counted.name), None)
        array = None if tensor is None else read_tensor(tensor, counted, "", [])
        return 1 if array is None else int(array.shape[counted.batch_axis])


def state_nbytes(spec: ModelSpec, rows: int = 1) -> int:
    """Return how many bytes the first state of a sequence of a model has, of so many rows."""
    inputs = [pair.input for pair in spec.state]
    return sum(math.prod(_initial_shape(each, rows)) * STORAGE[each.data_type].itemsize for each in inputs)


def warn_of_states(specs: Iterable[ModelSpec], left: int) -> None:
    """Log a warning if as many sequences as models allow would have states of more than the bytes that are left."""
    allowed = [(spec.sequences.max_live * state_nbytes(spec), spec) for spec in specs]
    total = sum(nbytes for nbytes, _ in allowed)
    if total <= left:
        return
    nbytes, largest = max(allowed, key=lambda each: each[0])
    logger.warning(
        "sequences may keep states of %d MiB in all, and %d MiB of memory are left; "
        "model %s alone allows %d of %d bytes, %d MiB: "
        "lower sequences.max in its model.yaml, or give the server more memory",
        total >> 20,
        left >> 20,
        largest.name,
        largest.sequences.max_live,
        state_nbytes(largest),
        nbytes >> 20,
    )


def _is_met(array: Array, value: float | None) -> bool:
    return bool((array != 0).all() if value is None else (array == value).all())


def _fits(spec: TensorSpec, old: Array, new: Array) -> bool:
    """Whether a new state can stand where an old one did: as many rows, and sizes that the input takes."""
    return new.ndim == old.ndim and all(
        new.shape[axis] == (old.shape[axis] if axis == spec.batch_axis else size)
        for axis, size in enumerate(spec.shape)
        if axis == spec.batch_axis or isinstance(size, int)
    )


def _initial(pair: StatePair, rows: int) -> Array:
    spec = pair.input
    if isinstance(pair.initial, np.ndarray):
        row = pair.initial if spec.batch_axis is None else np.expand_dims(pair.initial, spec.batch_axis)
        return row if spec.batch_axis is None else np.repeat(row, rows, axis=spec.batch_axis)
    return np.full(_initial_shape(spec, rows), pair.initial, STORAGE[spec.data_type])


def _initial_shape(spec: TensorSpec, rows: int) -> list[int]:
    # A free axis beside the batch axis is one that grows, such as the length of a cache: it begins with nothing.
    shape = [size if isinstance(size, int) else 0 for size in spec.shape]
    if spec.batch_axis is not None:
        shape[spec.batch_axis] = rows
    return shape
