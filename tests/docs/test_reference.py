"""The reference has everything that the program has, and what is written by hand agrees with it."""

import re

import pytest
from docs_reference import COMPUTED, FROM_METADATA, FROM_SETTINGS, TABLES, all_commands, model_keys

from onnxserve.v1 import inference_service_pb2, model_service_pb2, tensor_pb2
from onnxserve_server import errors
from onnxserve_server.repository.config import ModelConfig
from onnxserve_server.settings import Settings
from onnxserve_server.telemetry.catalogue import INSTRUMENTS, prometheus_name
from support.markdown import ROOT
from support.packages import public_modules, public_names

REFERENCE = ROOT / "docs/reference"
ERRORS = (REFERENCE / "errors.md").read_text()


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_one_place(name):
    pages = [page.read_text() for page in (ROOT / "docs").rglob("*.md")]
    assert sum(page.count(f"<!-- reference: {name} -->") for page in pages) == 1


def test_every_place_has_a_table():
    pages = [page.read_text() for page in (ROOT / "docs").rglob("*.md")]
    assert {name for page in pages for name in re.findall(r"<!-- reference: (.*) -->", page)} == TABLES.keys()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_there_with_its_default_and_meaning(name):
    flag, variable = "--" + name.replace("_", "-"), "ONNXSERVE_" + name.upper()
    (row,) = [line for line in TABLES["settings"]().splitlines() if line.startswith(f"| `{flag}` | `{variable}` |")]
    field = Settings.model_fields[name]
    default, _, meaning = (cell.strip() for cell in re.split(r"(?<!\\\\)\|", row)[3:6])
    if field.default_factory is not None:
        assert default == COMPUTED[name]
    elif not isinstance(field.default, bool):
        assert default.strip("`") in (str(field.default), str(field.default).removesuffix(".0"))
    assert meaning
    assert meaning == (field.description or "").replace("|", r"\|")


def test_computed_defaults_are_those_of_settings_that_have_some():
    computed = {name for name, field in Settings.model_fields.items() if field.default_factory is not None}
    assert computed == COMPUTED.keys()


def test_every_key_of_model_yaml_is_there_with_a_meaning():
    rows = [line.split(" | ") for line in TABLES["model-yaml"]().splitlines()[2:]]
    assert [row[0] for row in rows] == [f"| `{key}`" for key, _ in model_keys()]
    assert all(row[-1].removesuffix(" |") for row in rows)
    assert ModelConfig.model_fields.keys() >= FROM_METADATA | FROM_SETTINGS


def test_every_metric_is_there():
    rows = TABLES["metrics"]().splitlines()[2:]
    names = [tuple(re.findall(r"`(.+?)`", row)[:2]) for row in rows]
    assert names == [(one.name, prometheus_name(one)) for one in INSTRUMENTS]


def test_every_command_is_there_with_its_options():
    text = TABLES["commands"]()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for name, command, _ in all_commands():
        own = [one for one in command.params if name != "serve" or one.name not in Settings.model_fields]
        for one in own:
            assert one.opts[0] in sections[name]
    assert sections.keys() == {name for name, _, _ in all_commands()}


def test_every_message_field_and_value_of_the_protocol_is_there():
    text = TABLES["protocol"]()
    for file in (inference_service_pb2, model_service_pb2, tensor_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            section = text.split(f"### {message.name}\n")[1].split("\n### ")[0]
            assert re.findall(r"^\| \d+ \| `(\w+)` \|", section, re.MULTILINE) == [one.name for one in message.fields]
        for enum in file.DESCRIPTOR.enum_types_by_name.values():
            section = text.split(f"### {enum.name}\n")[1].split("\n### ")[0]
            assert re.findall(r"`(\w+)`", section)[-len(enum.values) :] == [value.name for value in enum.values]
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                assert f"#### {service.name}.{method.name}\n" in text


def test_every_error_is_documented_with_its_code_and_no_other():
    shown = set(re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", ERRORS, re.MULTILINE))
    known = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.ServeError)]
    assert shown == {(error.code.name, error.reason) for error in known}


@pytest.mark.parametrize("module", public_modules())
def test_every_public_name_of_the_packages_is_in_the_reference(module):
    listed = re.findall(rf"^::: {re.escape(module)}\.(\w+)$", (REFERENCE / "sdk.md").read_text(), re.MULTILINE)
    assert sorted(listed) == public_names(module)
