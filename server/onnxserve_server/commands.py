"""The commands of the server: onnxserve serve, onnxserve doctor."""

import gc
import inspect
import json
import logging
import os
import threading
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxserve_server import doctor as checks
from onnxserve_server.app import App
from onnxserve_server.errors import ConfigurationError
from onnxserve_server.settings import PREFIX, Settings, load_settings
from onnxserve_server.signals import set_on_signal
from onnxserve_server.telemetry import logs
from onnxserve_server.telemetry.log_writer import say

logger = logging.getLogger(__name__)

_BAD_CONFIGURATION = 2  # exit code
_STOPPING = 15.0  # seconds after the drain timeout: calls are cut off, states handed over, the last telemetry is sent


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    serve.__signature__ = _signature_of_serve()  # type: ignore[attr-defined]
    serve.__annotations__ = {name: parameter.annotation for name, parameter in serve.__signature__.parameters.items()}  # type: ignore[attr-defined]
    app.command()(serve)
    app.command()(doctor)


def serve(config: Path | None = None, show_config: bool = False, **flags: Any) -> None:
    """Serve the models of a directory: <models>/<name>/<version>/model.onnx, and optionally <models>/<name>/model.yaml.

    Each flag can also be set as an environment variable (ONNXSERVE_PORT) or in the file given with --config.
    """
    style = flags.get("log_format") or os.environ.get(f"{PREFIX}LOG_FORMAT")  # while the settings are not there yet
    try:
        settings = load_settings(config, **flags)
    except ConfigurationError as error:
        if style == "json":
            logs.configure("error", "json")
            logger.error("%s", error, extra=logs.START_FAILED)
            logs.flush()
        else:
            say(f"onnxserve: {error}", error=True)
        raise typer.Exit(_BAD_CONFIGURATION) from None
    if show_config:
        typer.echo(json.dumps(settings.model_dump(mode="json"), indent=2))
        return
    try:
        _serve(settings)
    except ConfigurationError as error:
        if settings.log_format == "console":  # else the log has it
            say(f"onnxserve: {error}", error=True)
        raise typer.Exit(_BAD_CONFIGURATION) from None


def doctor(
    models: Annotated[Path | None, typer.Option(help="Also try the models of this directory.")] = None,
    providers: Annotated[str | None, typer.Option(help="Execution providers to request; default as for serve.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine and installation: versions, execution providers, CPUs, memory, threads, and models."""
    try:
        findings = checks.examine(load_settings(models=models, providers=providers), try_models=models is not None)
    except ConfigurationError as error:
        typer.echo(f"onnxserve: {error}", err=True)
        raise typer.Exit(_BAD_CONFIGURATION) from None
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        _print_findings(findings)
    if findings["problems"]:
        raise typer.Exit(1)


def _serve(settings: Settings) -> None:
    _keep_standard_descriptors()
    logs.configure(settings.log_level, settings.log_format)
    app, stop = App(settings), threading.Event()
    within = settings.drain_delay + settings.drain_timeout + _STOPPING
    with set_on_signal(stop, lambda: bool(app.edge_name), within):
        app.run(stop, _announce)


def _keep_standard_descriptors() -> None:
    """Open what was closed of stdin, stdout and stderr: else a connection gets its number, and what libraries print."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _announce(address: str) -> None:
    # Objects that are alive by now stay. The garbage collector would traverse them again and again, 35 ms each time for
    # 75,000 objects (CPython 3.11), while all callers wait.
    gc.collect()
    gc.freeze()
    say(f"onnxserve is ready on {address}")  # for the process that started us


def _signature_of_serve() -> inspect.Signature:
    """Return the parameters of serve, one flag a setting, so that help, names and types are declared in one place."""
    parameters = [
        _flag("config", Path | None, None, "YAML file of settings.", envvar=f"{PREFIX}CONFIG"),
        _flag("show_config", bool, False, "Print the settings that would be used, as JSON, and exit.", metavar=""),
    ]
    for name, field in Settings.model_fields.items():
        kind: Any = str if name in ("providers", "edge", "log_level", "log_format") else field.annotation
        default = "depends on the machine and environment" if field.default_factory is not None else str(field.default)
        text = field.description or ""
        more: dict[str, Any] = {"metavar": ""} if kind is bool else {}
        if choices := [choice for choice in get_args(field.annotation) if isinstance(choice, str)]:
            more = {"metavar": "|".join(choices)}
        parameters.append(_flag(name, kind | None, None, f"{text[:1].upper()}{text[1:]} (default: {default}).", **more))
    return inspect.Signature(parameters)


def _flag(name: str, kind: Any, value: object, text: str, **more: Any) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    flags = f"{flag}/--no-{flag[2:]}" if kind == bool | None else flag
    option = typer.Option(flags, help=text, show_default=False, **more)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=Annotated[kind, option])


def _print_findings(findings: dict[str, Any]) -> None:
    console = Console(soft_wrap=True, markup=False, highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    for part in ("versions", "machine", "server"):
        for name, value in findings[part].items():
            text = ", ".join(value) if isinstance(value, list) else str(value)
            table.add_row(name.replace("_", " "), Text(text))
    console.print(table)
    for model in findings["models"]:
        console.print(f"model {model['model']}: {model['verdict']}")
    for problem in findings["problems"]:
        console.print("problem:", style="red", end=" ")
        console.print(problem)
    if not findings["problems"]:
        console.print("no problem found", style="green")
