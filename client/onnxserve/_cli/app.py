"""The command `onnxserve`: commands that call a server, and those of the packages of server and converters."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core
import typer.main
from rich.markup import escape

import onnxserve
from onnxserve._cli.bench import bench
from onnxserve._cli.generate import generate
from onnxserve._cli.models import models
from onnxserve._cli.predict import predict


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Commands whose module is always installed, while the packages that it imports come with an extra.

    Attributes:
        module: the module; its function register(app) adds the commands.
        commands: the names of the commands.
        needs: the packages that they import.
        install: the command that installs these packages.
    """

    module: str
    commands: tuple[str, ...]
    needs: tuple[str, ...]
    install: str


_PARTS = (
    _Part(
        module="onnxserve_server.commands",
        commands=("serve", "doctor"),
        needs=("pydantic_settings", "grpc_health", "grpc_reflection", "onnxruntime"),
        install="pip install 'onnxserve[cpu]' (or 'onnxserve[gpu]')",
    ),
    _Part(
        module="onnxserve_converters.commands",
        commands=("convert", "inspect"),
        needs=("onnx", "onnxslim", "onnxruntime"),
        install="pip install 'onnxserve[cpu,convert]'",
    ),
    _Part(
        module="onnxserve._cli.explain",
        commands=("explain",),
        needs=("shap", "lime", "matplotlib"),
        install="pip install 'onnxserve[explain]'",
    ),
)
_PART_OF = {name: part for part in _PARTS for name in part.commands}


class _Commands(typer.core.TyperGroup):
    """The group of all commands; it imports the module of a part only for one of its commands, or for the help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*_PART_OF, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _PART_OF:
            group: Any = typer.main.get_group(_app_of(_PART_OF[cmd_name]))
            return group.get_command(ctx, cmd_name)
        return super().get_command(ctx, cmd_name)


def _app_of(part: _Part) -> typer.Typer:
    commands = typer.Typer(add_completion=False)
    if any(importlib.util.find_spec(name) is None for name in part.needs):
        for name in part.commands:
            _add_stand_in(commands, name, part.install)
    else:
        importlib.import_module(part.module).register(commands)
    return commands


def _add_stand_in(commands: typer.Typer, name: str, install: str) -> None:
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}

    @commands.command(name, context_settings=settings, help=escape(f"Not installed: {install}."))
    def refuse() -> None:
        typer.echo(f"onnxserve: {name} needs an extra: {install}", err=True)
        raise typer.Exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnxserve {onnxserve.__version__}")
        raise typer.Exit


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(models)
app.command()(predict)
app.command()(generate)
app.command()(bench)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Convert trained models to ONNX, serve them over gRPC, and call them."""
