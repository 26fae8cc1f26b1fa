"""Functions as models: what the server runs, and how it describes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from onnxserve._models import TensorSpec
from onnxserve._prediction import Prediction, Receipt
from onnxserve.tensor import NUMBERS, Array, encode
from onnxserve.v1 import inference_service_pb2, model_service_pb2, tensor_pb2

Function = Callable[[dict[str, Array]], Mapping[str, npt.ArrayLike]]
"""A function from input arrays by name, which are read-only, to output arrays by name."""

_MAX_QUEUE_ROWS = 1 << 16
_MAX_QUEUE_BYTES = 1 << 28
_NOT_BATCHED = "this test server runs one request at a time; Model(max_rows=...) has it say otherwise"
_RECEIPT = Receipt(queue_us=0, batch_wait_us=0, compute_us=0, batch_rows=1, batch_requests=1, provider="function")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A function, and how the server describes it. The function alone will do where the description does not matter.

    Requests are not checked against the description: the function sees what the caller sent.
    """

    function: Function | None = None
    """The function that answers requests. Exactly one of `function` and `sequence` is given."""
    sequence: Callable[[], Function] | None = None
    """For a stateful model: called at the start of each sequence, it returns the function of its steps, such as an
    object that keeps the state. A request outside a sequence is a sequence of one step."""
    feedback: Mapping[str, str] = field(default_factory=dict)
    """For generate(): the outputs that become inputs of the next step, as {output: input}."""
    version: str = "1"
    """The version that answers."""
    inputs: Sequence[TensorSpec] = ()
    """The inputs."""
    outputs: Sequence[TensorSpec] = ()
    """The outputs."""
    max_rows: int = 0
    """The limit of rows in one run, for a model that is described as batched: the client may join concurrent requests.
    0: the model is described as not batched."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The metadata of the model file."""
    description: str = ""
    """The description of the model file."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: both or neither of `function` and `sequence` are given.
        """
        if (self.function is None) == (self.sequence is None):
            raise ValueError("give a Model either a function or a sequence")

    def begin(self) -> Function:
        """Return the function of a new sequence, or of a single request."""
        if self.sequence is not None:
            return self.sequence()
        assert self.function is not None
        return self.function


def prediction(
    outputs: Mapping[str, npt.ArrayLike],
    *,
    model: str = "model",
    version: str = "1",
    request_id: str = "",
    receipt: Receipt = _RECEIPT,
) -> Prediction:
    """Return a Prediction as predict() returns it, for tests that replace the client itself.

    Args:
        outputs: the arrays, by output name.
        model: the name of the model that answered.
        version: its version.
        request_id: the request's name.
        receipt: the time that the request took, and its batch.

    Raises:
        TypeError: an array has a dtype that the protocol lacks.
    """
    return Prediction(response_of(outputs, model=model, version=version, request_id=request_id, receipt=receipt))


def response_of(
    outputs: Mapping[str, npt.ArrayLike], *, model: str, version: str, request_id: str, receipt: Receipt = _RECEIPT
) -> inference_service_pb2.PredictResponse:
    """Return the message of an answer."""
    return inference_service_pb2.PredictResponse(
        model=model,
        version=version,
        request_id=request_id,
        outputs=[encode(name, np.asarray(array)) for name, array in outputs.items()],
        receipt=inference_service_pb2.Receipt(**asdict(receipt)),
    )


def model_message(name: str, model: Model) -> model_service_pb2.Model:
    """Return the description of a model."""
    is_batched = model.max_rows > 0
    return model_service_pb2.Model(
        name=name,
        version=model.version,
        state=model_service_pb2.MODEL_STATE_READY,
        inputs=map(_spec_message, model.inputs),
        outputs=map(_spec_message, model.outputs),
        batching=model_service_pb2.Batching(
            enabled=is_batched,
            reason="" if is_batched else _NOT_BATCHED,
            max_rows=model.max_rows or 1,
            max_queue_rows=_MAX_QUEUE_ROWS,
            max_queue_bytes=_MAX_QUEUE_BYTES,
        ),
        runtime=model_service_pb2.Runtime(providers=[_RECEIPT.provider], instances=1, threads=1),
        metadata=model.metadata,
        description=model.description,
    )


def _spec_message(spec: TensorSpec) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(
        name=spec.name,
        data_type=NUMBERS[spec.dtype],
        shape=[
            tensor_pb2.Dimension(size=axis) if isinstance(axis, int) else tensor_pb2.Dimension(size=-1, name=axis or "")
            for axis in spec.shape
        ],
        labels=spec.labels,
        batch_axis=-1 if spec.batch_axis is None else spec.batch_axis,
    )
