"""A served model as the function that SHAP and LIME explain: rows in, one number for each out."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from onnxserve._client import Client
from onnxserve._models import ModelInfo, TensorSpec
from onnxserve._prediction import Prediction
from onnxserve.explain._arrays import ExplainError
from onnxserve.tensor import Array

Floats = npt.NDArray[np.float64]
Inputs = Mapping[str, Array]
Part = Callable[[int, int], Inputs]
Progress = Callable[[int, int], None]
"""Called with the rows that have been answered, and about how many there will be."""

# Explaining goes behind the requests of all other callers, and leaves room in the queue for them.
_PRIORITY = -1
_WINDOW = 4
_REQUEST_BYTES = 8 * 1024 * 1024


class Served:
    """One number of a model's answer, as a function of rows. It counts the rows and requests that it sends.

    Args:
        client: calls the server.
        info: the model.
        instance: the row to explain, [1, ...] for each input; inputs that are not varied are sent as they are here.
        output: the output to explain; None: the only one, or the only one of floats.
        label: the class whose score is explained, by name or index; None: the one with the highest score.
        timeout: seconds for each request.
        progress: called with the rows answered so far, and about how many there will be.

    Attributes:
        output: the name of the output.
        index: the index of the class; None for an output of one number a row.
        label: the name of the class; "" where it has none.
        prediction: the number for the instance.
        expected: about how many rows will be sent; for `progress`.
        rows: rows sent.
        requests: requests sent.
        batch_rows: the most rows of a batch of the server.

    Raises:
        ExplainError: the output or class is unknown, or the output is neither one number a row nor one for each class.
        OnnxserveError: a call failed.
    """

    def __init__(
        self,
        client: Client,
        info: ModelInfo,
        instance: Inputs,
        *,
        output: str | None,
        label: str | int | None,
        timeout: float | None,
        progress: Progress | None,
    ) -> None:
        self._client = client
        self._info = info
        self._instance = instance
        self._timeout = timeout
        self._progress = progress
        self._step = self._rows_of_a_request()
        self.expected = 0
        spec = _output(info, output)
        self.output = spec.name
        self.index: int | None = None
        prediction = client.predict(info.name, instance, outputs=[spec.name], version=info.version, timeout=timeout)
        self.rows = self.requests = 1
        self.batch_rows = prediction.receipt.batch_rows
        scores = _scores(prediction, spec.name, 1)[0]
        if scores.size != 1 or label is not None or spec.labels:
            self.index = _index(label, spec, scores)
        self.label = spec.labels[self.index] if spec.labels and self.index is not None else ""
        self.prediction = float(scores[self.index or 0])

    def __call__(self, count: int, part: Part) -> Floats:
        """Return the number for each of `count` rows, float64.

        Args:
            count: the number of rows.
            part: returns the varied inputs of rows [first, last); called on another thread, in order.

        Raises:
            ExplainError: a number is not finite.
            OnnxserveError: a call failed.
        """
        window = max(1, min(_WINDOW, self._info.batching.max_queue_rows // (2 * self._step)))
        bounds = [(first, min(first + self._step, count)) for first in range(0, count, self._step)]
        answers = self._client.stream(
            self._info.name,
            (self._inputs(part(first, last), last - first) for first, last in bounds),
            outputs=[self.output],
            version=self._info.version,
            timeout=self._timeout and self._timeout * window,  # it waits for those sent before it
            priority=_PRIORITY,
            window=window,
        )
        numbers = np.empty(count)
        for (first, last), answer in zip(bounds, answers, strict=True):
            assert isinstance(answer, Prediction)  # errors are raised
            numbers[first:last] = _scores(answer, self.output, last - first)[:, self.index or 0]
            self._count(answer, last - first)
        if not np.isfinite(numbers).all():
            raise ExplainError(
                f"output {self.output!r} cannot be explained: it is not finite for {(~np.isfinite(numbers)).sum()} of "
                f"{count} changed rows"
            )
        return numbers

    def _count(self, answer: Prediction, rows: int) -> None:
        self.requests += 1
        self.rows += rows
        self.batch_rows = max(self.batch_rows, answer.receipt.batch_rows)
        if self._progress is not None:
            self._progress(self.rows, max(self.expected, self.rows))

    def _inputs(self, varied: Inputs, rows: int) -> dict[str, Array]:
        fixed = {
            spec.name: self._instance[spec.name].repeat(rows, axis=0)
            if spec.batch_axis == 0
            else self._instance[spec.name]
            for spec in self._info.inputs
            if spec.name not in varied
        }
        return fixed | dict(varied)

    def _rows_of_a_request(self) -> int:
        if not self._info.batching.enabled:
            return 1
        row_bytes = sum(array.nbytes for array in self._instance.values())
        return int(max(1, min(self._info.batching.max_rows, _REQUEST_BYTES // max(1, row_bytes))))


def _output(info: ModelInfo, name: str | None) -> TensorSpec:
    names = ", ".join(f"{spec.name} ({spec.dtype})" for spec in info.outputs)
    if name is not None:
        found = [spec for spec in info.outputs if spec.name == name]
        if not found:
            raise ExplainError(f"unknown output {name!r}; the model's outputs are {names}")
    else:
        found = [spec for spec in info.outputs if "float" in spec.dtype]
        found = found or [spec for spec in info.outputs if spec.dtype != "string"]
        if len(found) != 1:
            raise ExplainError(f"choose the output to explain; the model's outputs are {names}")
    if found[0].dtype == "string":
        raise ExplainError(f"output {name!r} is text; choose an output of numbers; the model's outputs are {names}")
    return found[0]


def _scores(prediction: Prediction, output: str, rows: int) -> Floats:
    """Return an output as float64 [rows, classes]."""
    array = prediction[output]
    if not array.ndim or len(array) != rows or array.size > rows * max(array.shape[-1], 1):
        raise ExplainError(
            f"output {output!r} cannot be explained: it has the shape {list(array.shape)} for {rows} rows, not one "
            "number for each row, or for each row and class"
        )
    return array.reshape(rows, -1).astype(np.float64)


def _index(label: str | int | None, spec: TensorSpec, scores: Floats) -> int:
    if label is None:
        return int(scores.argmax())
    if isinstance(label, str) and label in spec.labels:
        return spec.labels.index(label)
    try:
        index = int(label)
    except ValueError:
        index = -1
    if not 0 <= index < scores.size:
        names = f", which are {', '.join(spec.labels)}" if spec.labels else ""
        raise ExplainError(f"unknown class {label!r}; output {spec.name!r} has {scores.size} classes{names}")
    return index
