"""The command `onnxserve`: what calls a server stands here, what is a server in the server's package."""

import importlib
import importlib.util
from typing import Annotated, Any

import typer
import typer.core
import typer.main
from rich.markup import escape

import onnxserve
from onnxserve._cli.models import models
from onnxserve._cli.predict import predict

_SERVER_COMMANDS = ("serve", "doctor")
# What the server's commands import. Its own package is in every installation, these come with its extras.
_SERVER_NEEDS = ("pydantic_settings", "grpc_health", "grpc_reflection", "onnxruntime")


class _Commands(typer.core.TyperGroup):
    """The group of all commands; it imports the server's only when one of them is asked for, or the help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*_SERVER_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _SERVER_COMMANDS:
            group: Any = typer.main.get_command(_server_app())
            return group.get_command(ctx, cmd_name)
        return super().get_command(ctx, cmd_name)


def _server_app() -> typer.Typer:
    server = typer.Typer(add_completion=False)
    if any(importlib.util.find_spec(name) is None for name in _SERVER_NEEDS):
        for name in _SERVER_COMMANDS:
            _add_stand_in(server, name)
    else:
        importlib.import_module("onnxserve_server.commands").register(server)
    return server


def _add_stand_in(server: typer.Typer, name: str) -> None:
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}

    @server.command(name, context_settings=settings, help=escape("Not installed: pip install 'onnxserve[cpu]'."))
    def tell() -> None:
        typer.echo(
            f"onnxserve: {name} needs an extra: pip install 'onnxserve[cpu]' (or 'onnxserve[gpu]')",
            err=True,
        )
        raise typer.Exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnxserve {onnxserve.__version__}")
        raise typer.Exit


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(models)
app.command()(predict)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve ONNX models over gRPC, and call them."""
