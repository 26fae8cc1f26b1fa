"""The answer to one request."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from onnxserve.errors import invalid_answer
from onnxserve.tensor import Array, decode
from onnxserve.v1 import inference_service_pb2


@dataclass(frozen=True, slots=True)
class Receipt:
    """How long a request spent in each part of the server, and the batch that it was run in.

    A request that was split over several runs reports the sum of their times, and the rows and requests of the largest
    batch.
    """

    queue_us: int
    """The time from admission until an executor was free, in microseconds."""
    batch_wait_us: int
    """The time from then until the batch started to run, in microseconds; it includes `max_delay_us` and the wait for a
    CPU."""
    compute_us: int
    """The time of the run in ONNX Runtime, in microseconds."""
    batch_rows: int
    """The rows in the batch, including this request's. For a model that is not batched: 1."""
    batch_requests: int
    """The requests in the batch, including this one. Calls that the client joined count as one."""
    provider: str
    """The first execution provider of the session, such as "CPUExecutionProvider"."""


def read_prediction(
    response: inference_service_pb2.PredictResponse, request_id: str, outputs: Sequence[str] | None = None
) -> "Prediction":
    """Return the answer to a request; `outputs`: the names that it asked for, None for all.

    Raises:
        InvalidAnswer: the answer contradicts itself or the request.
        ImportError: see Prediction.
    """
    try:
        prediction = Prediction(response)
    except ValueError as error:
        raise invalid_answer(str(error), request_id) from error
    if prediction.request_id not in ("", request_id):
        raise invalid_answer(f"it is for request {prediction.request_id!r}, not {request_id!r}", request_id)
    if len(prediction._arrays) != len(response.outputs):
        raise invalid_answer("two outputs have the same name", request_id)
    if outputs is not None and prediction.keys() != {*outputs}:
        raise invalid_answer(f"it has the outputs {[*prediction]}, not {[*outputs]}", request_id)
    return prediction


class Prediction(Mapping[str, Array]):
    """The outputs of one request: a mapping of output name to array, in the order asked for.

    Arrays of numbers are read-only views of the answer's bytes, which joined calls share: `copy()` an array to change
    it, or to keep it without the rest. Strings are object arrays of str; bfloat16 and float8 are arrays of the package
    ml_dtypes.

    Attributes:
        model: the model that answered.
        version: the version that answered.
        request_id: the request's name.
        receipt: the times and the batch of the request.
    """

    __slots__ = ("_arrays", "model", "receipt", "request_id", "version")

    def __init__(self, response: inference_service_pb2.PredictResponse) -> None:
        """Read a response; nothing of it is kept in memory but the arrays.

        Raises:
            ValueError: the response is inconsistent.
            ImportError: an output is bfloat16 or float8 and ml_dtypes is not installed.
        """
        self._arrays = {output.name: decode(output) for output in response.outputs}
        self.model = response.model
        self.version = response.version
        self.request_id = response.request_id
        receipt = response.receipt
        self.receipt = Receipt(
            receipt.queue_us,
            receipt.batch_wait_us,
            receipt.compute_us,
            receipt.batch_rows,
            receipt.batch_requests,
            receipt.provider,
        )

    def _part(self, first: int, last: int, request_id: str, shared: Container[str]) -> Self:
        """Return the rows from `first` up to `last` of every output, as views, under another name; all of `shared`."""
        part = object.__new__(type(self))
        part._arrays = {name: array if name in shared else array[first:last] for name, array in self._arrays.items()}
        part.model = self.model
        part.version = self.version
        part.request_id = request_id
        part.receipt = self.receipt
        return part

    def __getitem__(self, name: str) -> Array:
        """Return the output `name`."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the outputs."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Return the number of outputs."""
        return len(self._arrays)

    # Mapping compares values with ==, and arrays have no truth value: a prediction equals itself alone.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        """Return names, dtypes and shapes, not the values."""
        outputs = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.items())
        return f"<Prediction of {self.model} version {self.version}: {outputs}; {self.receipt}>"
