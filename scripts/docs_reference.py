"""The tables of the reference, made from the code: `python scripts/docs_reference.py NAME` prints one of them.

A page of docs/ has `<!-- reference: NAME -->` where a table belongs, and docs_hooks.py puts it there.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

import typer.main
from docs_protocol import contract
from pydantic.fields import FieldInfo

from onnxserve._cli.app import app
from onnxserve_server.repository.config import BatchingConfig, ModelConfig, SequencesConfig
from onnxserve_server.settings import PREFIX, Settings
from onnxserve_server.telemetry.catalogue import INSTRUMENTS, prometheus_name

COMPUTED = {"threads": "CPUs granted", "providers": "`auto`", "otlp_endpoint": "`OTEL_EXPORTER_OTLP_ENDPOINT`"}
"""What stands for the defaults of settings that depend on the machine and its environment."""
FROM_SETTINGS = {"threads", "providers", "allow_cpu_fallback"}
"""Keys of model.yaml, beside those of `batching`, whose defaults are settings of the server."""
FROM_METADATA = {"batch_axis", "shared", "state", "feedback", "labels"}
"""Keys of model.yaml whose defaults are in the metadata of the model file."""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def settings() -> str:
    """Return each setting: its flag, variable, default, values and meaning."""
    rows = (
        (_flag(name), f"`{PREFIX}{name.upper()}`", _default(name, field), _values(field), field.description or "")
        for name, field in Settings.model_fields.items()
    )
    return table(("flag", "environment", "default", "values", "meaning"), rows)


def model_yaml() -> str:
    """Return each key of model.yaml: its default, values and meaning."""
    rows = (
        (f"`{key}`", _default_of_model(key, field), _values(field), field.description or "")
        for key, field in model_keys()
    )
    return table(("key", "default", "values", "meaning"), rows)


def model_keys() -> Iterator[tuple[str, FieldInfo]]:
    """Yield the keys of model.yaml with their fields, those of mappings as `batching.max_rows`."""
    parts: dict[str, Any] = {"batching": BatchingConfig, "sequences": SequencesConfig}
    for name, field in ModelConfig.model_fields.items():
        if name in parts:
            yield from ((f"{name}.{key}", part) for key, part in parts[name].model_fields.items())
        else:
            yield name, field


def metrics() -> str:
    """Return each metric of the server: its names, kind, unit, meaning and attributes."""
    rows = (
        (
            f"`{one.name}`",
            f"`{prometheus_name(one)}`",
            one.kind,
            one.unit,
            one.meaning,
            ", ".join(f"`{name}`" for name in one.attributes),
        )
        for one in INSTRUMENTS
    )
    return table(("OpenTelemetry", "Prometheus", "kind", "unit", "meaning", "attributes"), rows)


def commands() -> str:
    """Return each command of the command line, with its arguments and options."""
    return "\n\n".join(_command(name, command, context) for name, command, context in all_commands())


def all_commands() -> Iterator[tuple[str, Any, Any]]:
    """Yield name, command and context of each command."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("onnxserve", ["models"], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield name, command, command.make_context(name, [], parent=context, resilient_parsing=True)


def protocol() -> str:
    """Return each service, message and enum of protos/."""
    return contract(table)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "model-yaml": model_yaml,
    "metrics": metrics,
    "commands": commands,
    "protocol": protocol,
}


def _command(name: str, command: Any, context: Any) -> str:
    own = [one for one in command.params if name != "serve" or one.name not in Settings.model_fields]
    records = [record for one in own if (record := one.get_help_record(context)) is not None]
    options = table(("argument or option", "meaning"), ((f"`{usage}`", _prose(meaning)) for usage, meaning in records))
    arguments = [one.name.upper() for one in own if one.param_type_name == "argument"]
    usage = "\n".join(["```text", " ".join(["onnxserve", name, *arguments, "[OPTIONS]"]), "```"])
    more = ["Each [setting](settings.md) is an option, too."] if name == "serve" else []
    return "\n\n".join([f"## {name}", usage, _prose(command.help), *more, options])


def _prose(text: str) -> str:
    return text.replace("<", "&lt;").strip()


def _flag(name: str) -> str:
    return f"`--{name.replace('_', '-')}`"


def _default(name: str, field: FieldInfo) -> str:
    return COMPUTED[name] if field.default_factory is not None else _shown(field.default)


def _default_of_model(key: str, field: FieldInfo) -> str:
    setting = key.removeprefix("batching.")
    if key in FROM_SETTINGS or (setting != key and setting in Settings.model_fields):
        return _flag(setting)
    if key in FROM_METADATA:
        return "the model file's metadata"
    return _shown(field.get_default(call_default_factory=True))


def _shown(value: object) -> str:
    match value:
        case None | {}:
            return ""
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return f"{value:.10g}"
    return f"`{value}`"


def _values(field: FieldInfo) -> str:
    """Return a field's range or its choices; nothing where its meaning says what it can be."""
    bounds = {name: getattr(one, name) for one in field.metadata for name in ("ge", "le") if hasattr(one, name)}
    if bounds:
        return f"{bounds['ge']} to {bounds['le']}" if "le" in bounds else f"{bounds['ge']} or more"
    if bool in (field.annotation, *get_args(field.annotation)):
        return "yes or no"
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    return ""


if __name__ == "__main__":
    sys.stdout.write(TABLES[sys.argv[1]]() + "\n")
