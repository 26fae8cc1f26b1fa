"""`onnxserve predict`: one request, its inputs from files."""

import dataclasses
import json as jsonlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onnxserve import Prediction, TensorSpec
from onnxserve._base import DEFAULT_TIMEOUT
from onnxserve._cli.connection import DEFAULT_TARGET, Ca, Json, Target, Tls, connect
from onnxserve._cli.inputs import INPUT_HELP, InputError, read_inputs
from onnxserve.tensor import Array

_ROWS = 10  # so many are told of an output with labels
_LABELS = 3  # so many are told of a row


def predict(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    inputs: Annotated[list[str], typer.Option("--input", help=INPUT_HELP)],
    outputs: Annotated[list[str] | None, typer.Option("--output", help="An output wanted; default: all.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="The version to run; default: the newest.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds for the answer.")] = DEFAULT_TIMEOUT,
    priority: Annotated[int, typer.Option("--priority", min=-10, max=10, help="Higher goes first.")] = 0,
    target: Target = DEFAULT_TARGET,
    tls: Tls = False,
    ca: Ca = None,
    json: Json = False,
    save: Annotated[Path | None, typer.Option("--save", help="Write the outputs to this .npz file.")] = None,
) -> None:
    """Run a model once."""
    with connect(target, tls=tls, ca=ca) as client:
        info = client.model(model, version, timeout=timeout)
        try:
            arrays = read_inputs(inputs, info.inputs)
        except InputError as error:
            raise typer.BadParameter(str(error), param_hint="--input") from None
        prediction = client.predict(
            model, arrays, outputs=outputs or None, version=version, timeout=timeout, priority=priority
        )
    if save:
        _save(save, prediction)
    typer.echo(jsonlib.dumps(_as_json(prediction)) if json else "\n".join(_lines(prediction, info.outputs)))


def _lines(prediction: Prediction, specs: tuple[TensorSpec, ...]) -> Iterator[str]:
    labels = {spec.name: spec.labels for spec in specs}
    for name, array in prediction.items():
        yield f"{name}: {array.dtype}{list(array.shape)}"
        yield np.array2string(array, precision=4, threshold=50, edgeitems=3, suppress_small=True)
        yield from _top_labels(array, labels.get(name, ()))
    yield f"{prediction.model} version {prediction.version}, request {prediction.request_id}"
    receipt = prediction.receipt
    yield (
        f"queue {receipt.queue_us} µs, batch wait {receipt.batch_wait_us} µs, compute {receipt.compute_us} µs; "
        f"batch of {receipt.batch_rows} rows from {receipt.batch_requests} requests on {receipt.provider}"
    )


def _top_labels(array: Array, labels: tuple[str, ...]) -> Iterator[str]:
    if not labels or not array.size or array.shape[-1:] != (len(labels),):
        return
    for number, scores in enumerate(array.reshape(-1, len(labels))[:_ROWS].astype(np.float64)):
        best = np.argsort(-scores, kind="stable")[:_LABELS]
        yield f"  row {number}: " + ", ".join(f"{labels[index]} {scores[index]:.4g}" for index in best)


def _as_json(prediction: Prediction) -> dict[str, Any]:
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


def _save(path: Path, prediction: Prediction) -> None:
    """Write an .npz; np.savez takes names as keyword arguments, of which it claims some itself."""
    try:
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in prediction.items():
                plain = array.astype(str) if array.dtype.kind == "O" else array
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(plain), allow_pickle=False)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--save") from None
