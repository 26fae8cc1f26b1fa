"""Answers as text for people, and as JSON."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxserve import Prediction, TensorSpec
from onnxserve.tensor import Array

_ROWS = 10  # printed of an output with labels
_LABELS = 3  # printed of a row


def output_lines(prediction: Prediction, specs: tuple[TensorSpec, ...]) -> Iterator[str]:
    """Yield the lines of the outputs; `specs` are the model's outputs, for their labels."""
    labels = {spec.name: spec.labels for spec in specs}
    for name, array in prediction.items():
        yield f"{name}: {array.dtype}{list(array.shape)}"
        yield np.array2string(array, precision=4, threshold=50, edgeitems=3, suppress_small=True)
        yield from _top_labels(array, labels.get(name, ()))


def receipt_lines(prediction: Prediction) -> Iterator[str]:
    """Yield the lines with the model, the version and the receipt."""
    yield f"{prediction.model} version {prediction.version}, request {prediction.request_id}"
    receipt = prediction.receipt
    yield (
        f"queue {receipt.queue_us} µs, batch wait {receipt.batch_wait_us} µs, compute {receipt.compute_us} µs; "
        f"batch of {_counted(receipt.batch_rows, 'row')} from {_counted(receipt.batch_requests, 'request')} "
        f"on {receipt.provider}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_json(prediction: Prediction) -> dict[str, Any]:
    """Return an answer as values that JSON has."""
    return {
        "model": prediction.model,
        "version": prediction.version,
        "request_id": prediction.request_id,
        "outputs": {name: _array_as_json(array) for name, array in prediction.items()},
        "receipt": dataclasses.asdict(prediction.receipt),
    }


def _array_as_json(array: Array) -> dict[str, Any]:
    dtype = "string" if array.dtype.kind == "O" else array.dtype.name
    return {"dtype": dtype, "shape": list(array.shape), "data": array.tolist()}


def _top_labels(array: Array, labels: tuple[str, ...]) -> Iterator[str]:
    if not labels or not array.size or array.shape[-1:] != (len(labels),):
        return
    for number, scores in enumerate(array.reshape(-1, len(labels))[:_ROWS].astype(np.float64)):
        best = np.argsort(-scores, kind="stable")[:_LABELS]
        yield f"  row {number}: " + ", ".join(f"{labels[index]} {scores[index]:.4g}" for index in best)
