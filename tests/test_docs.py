"""The documents agree with the program."""

import re
from pathlib import Path

import pytest

from onnxserve_server import errors
from onnxserve_server.repository.config import BatchingConfig, ModelConfig, SequencesConfig
from onnxserve_server.settings import Settings

ROOT = Path(__file__).parent.parent
OPERATING = (ROOT / "docs/operating.md").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name):
    flag, variable = "--" + name.replace("_", "-"), "ONNXSERVE_" + name.upper()
    row = next(line for line in OPERATING.splitlines() if line.startswith(f"| `{flag}` | `{variable}` |"))
    field = Settings.model_fields[name]
    if field.default_factory is None and not isinstance(field.default, bool):
        default = row.split("|")[3].strip(" `")
        assert default in (str(field.default), str(field.default).removesuffix(".0"))


def test_no_setting_is_documented_that_does_not_exist():
    flags = set(re.findall(r"^\| `--([a-z-]+)` \| `ONNXSERVE", OPERATING, re.MULTILINE))
    assert flags == {name.replace("_", "-") for name in Settings.model_fields}


def test_every_key_of_model_yaml_is_documented_and_no_other():
    parts = {"batching": BatchingConfig, "sequences": SequencesConfig}
    keys = set(ModelConfig.model_fields) - set(parts)
    keys |= {f"{part}.{name}" for part, config in parts.items() for name in config.model_fields}
    table = OPERATING.split("### model.yaml")[1].split("```yaml")[0]
    assert set(re.findall(r"^\| `([a-z_.]+)` \|", table, re.MULTILINE)) == keys


@pytest.mark.parametrize(
    "error",
    [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.ServeError)][1:],
    ids=lambda error: error.__name__,
)
def test_every_error_is_documented_with_its_code(error):
    assert f"| `{error.code.name}` | `{error.reason}` |" in PROTOCOL


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / link).exists(), link
