"""`onnxserve generate`: one request of several steps."""

import json as jsonlib
from typing import Annotated

import typer

from onnxserve import Stop
from onnxserve._base import DEFAULT_TIMEOUT
from onnxserve._cli.connection import DEFAULT_TARGET, Ca, Json, Target, Tls, connect
from onnxserve._cli.printing import as_json, output_lines, receipt_lines
from onnxserve._inputs import INPUT_HELP, InputError, read_inputs

_STOP_HELP = "Stop after the step in which every element of an output is not zero; OUTPUT=NUMBER: equals that number."


def generate(
    model: Annotated[str, typer.Argument(help="The model's name; its model.yaml declares which outputs are fed back.")],
    *,
    inputs: Annotated[list[str], typer.Option("--input", help=f"Inputs of the first step: {INPUT_HELP}")],
    max_steps: Annotated[int, typer.Option(min=1, max=10_000, help="The limit of steps.")],
    stop: Annotated[str | None, typer.Option(metavar="OUTPUT", help=_STOP_HELP)] = None,
    outputs: Annotated[
        list[str] | None, typer.Option("--output", help="An output to print for each step; default: all but the state.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="The version to run; default: the newest.")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for all steps.")] = DEFAULT_TIMEOUT,
    priority: Annotated[int, typer.Option(min=-10, max=10, help="Requests of a higher priority go first.")] = 0,
    target: Target = DEFAULT_TARGET,
    tls: Tls = False,
    ca: Ca = None,
    json: Json = False,
) -> None:
    """Run a model step by step, each time on the outputs of the step before; print each answer as it arrives.

    With --json each answer is one line.
    """
    until = _stop(stop)
    with connect(target, tls=tls, ca=ca) as client:
        info = client.model(model, version, timeout=timeout)
        try:
            arrays = read_inputs(inputs, info.inputs)
        except InputError as error:
            raise typer.BadParameter(str(error), param_hint="--input") from None
        steps = client.generate(
            model,
            arrays,
            max_steps=max_steps,
            stop=until,
            outputs=outputs or None,
            version=version,
            timeout=timeout,
            priority=priority,
        )
        for number, prediction in enumerate(steps, 1):
            if json:
                typer.echo(jsonlib.dumps(as_json(prediction)))
            else:
                typer.echo("\n".join([f"step {number}", *output_lines(prediction, info.outputs)]))
    if not json:
        typer.echo("\n".join(receipt_lines(prediction)))  # there is a prediction, or an error has been raised


def _stop(text: str | None) -> Stop | None:
    """Read `output` or `output=number`."""
    if text is None:
        return None
    output, equals, value = text.partition("=")
    try:
        return Stop(output, float(value) if equals else None)
    except ValueError:
        raise typer.BadParameter(f"{value!r} is not a number", param_hint="--stop") from None
