"""`onnxserve models`: the models of a server."""

import json as jsonlib
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxserve import Batching, ModelInfo, TensorSpec
from onnxserve._cli.connection import DEFAULT_TARGET, Ca, Json, Target, Tls, connect

_ROWS = {"INDEPENDENT": "independent (proved)"}


def models(*, target: Target = DEFAULT_TARGET, tls: Tls = False, ca: Ca = None, json: Json = False) -> None:
    """List the models of a server."""
    with connect(target, tls=tls, ca=ca) as client:
        found = client.models()
    if json:
        typer.echo(jsonlib.dumps([each.to_dict() for each in found], indent=2))
    else:
        console = Console()
        for each in found:
            _print(console, each)


def _print(console: Console, each: ModelInfo) -> None:
    """Print one model as a block; its tensors are too wide for the columns of a table."""
    providers = ", ".join(provider.removesuffix("ExecutionProvider") for provider in each.runtime.providers)
    heading = Text(each.name, style="bold")
    console.print(heading.append(f"  version {each.version}  {each.state}  {providers}", style="not bold"))
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for kind, specs in (("in", each.inputs), ("out", each.outputs)):
        for spec in specs:
            facts.add_row("", kind, Text(spec.name), Text(_type(spec)))  # Text: [brackets] would be read as markup
    console.print(facts)
    if each.left_out:
        console.print(Text(f"  not served, because they cannot be sent: {', '.join(each.left_out)}"))
    for line in _batching(each.batching):
        console.print(Text(f"  {line}"))
    for rule in each.rules:
        console.print(Text(f"  refused: {' and '.join(map(str, rule.conditions))}; {rule.reason}"))
    if each.untried:
        console.print(Text(f"  not tried in full: {each.untried}"))
    if each.description:
        console.print(Text(f"  {each.description}"), style="dim")


def _type(spec: TensorSpec) -> str:
    axes = ["..."] if spec.any_shape else ["?" if axis is None else str(axis) for axis in spec.shape]
    return f"{spec.dtype}[{', '.join(axes)}]{', optional' if spec.optional else ''}"


def _batching(batching: Batching) -> Iterator[str]:
    waits = f", waiting up to {batching.max_delay_us} µs for more" if batching.max_delay_us else ""
    if batching.enabled:
        yield f"batches of up to {batching.max_rows} rows{waits}"
    else:
        yield f"one request at a time: {batching.reason}"
    rows = batching.rows
    if rows.reason and rows.reason not in batching.reason:
        node = f" because of node {rows.node}" if rows.node else ""
        yield f"rows {_ROWS.get(rows.rows, rows.rows.lower())}{node}: {rows.reason}"
