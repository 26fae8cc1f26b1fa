"""`onnxserve predict`: one request with inputs from files."""

import json as jsonlib
import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from onnxserve import Prediction
from onnxserve._base import DEFAULT_TIMEOUT
from onnxserve._cli.connection import DEFAULT_TARGET, Ca, Json, Target, Tls, connect
from onnxserve._cli.printing import as_json, output_lines, receipt_lines
from onnxserve._inputs import INPUT_HELP, InputError, read_inputs


def predict(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    inputs: Annotated[list[str], typer.Option("--input", help=INPUT_HELP)],
    outputs: Annotated[list[str] | None, typer.Option("--output", help="An output to print; default: all.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="The version to run; default: the newest.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds for the answer.")] = DEFAULT_TIMEOUT,
    priority: Annotated[
        int, typer.Option("--priority", min=-10, max=10, help="Requests of a higher priority go first.")
    ] = 0,
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
    if json:
        typer.echo(jsonlib.dumps(as_json(prediction)))
    else:
        typer.echo("\n".join([*output_lines(prediction, info.outputs), *receipt_lines(prediction)]))


def _save(path: Path, prediction: Prediction) -> None:
    """Write an .npz file. np.savez would take the names as keyword arguments, some of which are its own."""
    try:
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in prediction.items():
                plain = array.astype(str) if array.dtype.kind == "O" else array
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(plain), allow_pickle=False)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--save") from None
