"""`onnxserve models`: what a server serves."""

import json as jsonlib

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxserve import Batching, ModelInfo, TensorSpec
from onnxserve._cli.connection import DEFAULT_TARGET, Ca, Json, Target, Tls, connect

_COLUMNS = ("name", "version", "state", "inputs", "outputs", "batching", "provider")


def models(*, target: Target = DEFAULT_TARGET, tls: Tls = False, ca: Ca = None, json: Json = False) -> None:
    """List a server's models."""
    with connect(target, tls=tls, ca=ca) as client:
        found = client.models()
    if json:
        typer.echo(jsonlib.dumps([each.to_dict() for each in found], indent=2))
    else:
        Console().print(_table(found))


def _table(found: list[ModelInfo]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for each in found:
        cells = (
            each.name,
            each.version,
            each.state,
            "\n".join(map(_spec, each.inputs)),
            "\n".join(map(_spec, each.outputs)),
            _batching(each.batching),
            "\n".join(provider.removesuffix("ExecutionProvider") for provider in each.runtime.providers),
        )
        table.add_row(*map(Text, cells))  # Text: a str's [brackets] would be read as markup
    return table


def _spec(spec: TensorSpec) -> str:
    axes = ", ".join("?" if axis is None else str(axis) for axis in spec.shape)
    return f"{spec.name}: {spec.dtype}[{axes}]"


def _batching(batching: Batching) -> str:
    if not batching.enabled:
        return f"no: {batching.reason}" if batching.reason else "no"
    return f"up to {batching.max_rows} rows" + (f", waits {batching.max_delay_us} us" if batching.max_delay_us else "")
