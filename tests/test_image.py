"""The container image, as far as its Dockerfile says; `make image-check` builds it and runs it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from onnxserve_server.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
PROVE = ROOT / "deploy/prove-image.sh"
TARGETS = ("cpu", "gpu")


def instructions():
    """Give the instructions of the Dockerfile, each on one line, as pairs of its name and what follows."""
    lines = (line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#"))
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, rest = line.split(maxsplit=1)
            yield name, " ".join(rest.split())


def stages():
    """Return the stages by name: what each stands on, and its own instructions. The last one has no name: ""."""
    found = {}
    for name, rest in instructions():
        if name == "FROM":
            base, *rename = re.split(r" AS ", rest)
            found["".join(rename)] = (base, own := [])
        elif found:
            own.append((name, rest))
    return found


def lineage(target):
    """Return all instructions that make the image of a target, those of its base stages first."""
    base, own = stages()[target]
    return (lineage(base) if base in stages() else []) + own


def last(target, instruction):
    return [rest for name, rest in lineage(target) if name == instruction][-1]


def environment(target):
    pairs = " ".join(rest for name, rest in lineage(target) if name == "ENV").split()
    return dict(pair.split("=", 1) for pair in pairs)


def test_the_image_of_a_build_without_target_is_the_one_for_the_cpu():
    assert [*stages()][-1] == ""
    assert stages()[""] == ("cpu", [])


def test_all_stages_stand_on_the_base_that_is_an_argument_with_a_tag():
    arguments = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG" and "/" in rest)
    outside = {base for base, _ in stages().values() if base not in stages()}
    assert outside == {f"${{{name}}}" for name in arguments}
    for image in arguments.values():
        assert re.search(r":(?!latest)[\w.-]+$|@sha256:[0-9a-f]{64}$", image), image


@pytest.mark.parametrize("target", TARGETS)
def test_the_user_is_a_number_and_not_root(target):
    name, rest = lineage(target)[-1]
    assert name == "USER"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", rest)


@pytest.mark.parametrize("target", TARGETS)
def test_no_shell_stands_between_the_signals_and_the_server(target):
    command = json.loads(last(target, "ENTRYPOINT")) + json.loads(last(target, "CMD"))
    assert command == ["tini", "--", "onnxserve", "serve"]


@pytest.mark.parametrize("target", TARGETS)
def test_its_variables_are_settings_under_which_others_reach_the_server(target, monkeypatch):
    for name, value in environment(target).items():
        if name.startswith("ONNXSERVE_"):
            monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.host == "0.0.0.0"
    assert str(settings.models) == last(target, "WORKDIR")


@pytest.mark.parametrize("target", TARGETS)
def test_the_ports_are_those_of_the_settings(target):
    assert last(target, "EXPOSE").split() == [
        str(Settings.model_fields[name].default) for name in ("port", "http_port")
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_onnx_runtime_reports_nothing_and_python_writes_nothing(target):
    assert environment(target).items() >= {"ORT_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"}.items()


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_installed_beside_python_and_tini(target):
    installed = [
        package
        for name, rest in lineage(target)
        if name == "RUN" and "apt-get install" in rest
        for package in re.search(r"apt-get install ([^&]+)", rest)[1].split()
        if not package.startswith("-")
    ]
    assert sorted(installed) == ["python3", "tini"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_packages_of_a_target_come_with_its_own_extra_and_constraints(target):
    _, own = stages()[f"packages-{target}"]
    (command,) = [rest for name, rest in own if name == "RUN"]
    assert f"sh install.sh '.[{target}]'" in command or f"sh install.sh --constraint gpu.txt '.[{target}]'" in command
    assert environment("tools")["PIP_CONSTRAINT"] == last("tools", "WORKDIR") + "/constraints.txt"


def test_what_is_copied_is_let_in_by_dockerignore_and_nothing_else():
    copied = {
        path
        for _, own in stages().values()
        for name, rest in own
        if name == "COPY" and not rest.startswith("--from=")
        for path in rest.split()[:-1]
    }
    first, *patterns = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert first == "*"
    assert {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")} == copied
    assert all((ROOT / path).exists() for path in copied)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/guides/deploy.md", "docs/guides/kubernetes.md", "deploy/Dockerfile"]
)
def test_the_targets_that_are_written_about_are_there(page):
    assert set(re.findall(r"build .*--target (\w+)", (ROOT / page).read_text())) <= stages().keys()


def prove(*arguments, path):
    return subprocess.run(
        [shutil.which("bash"), PROVE, *arguments],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_check_names_the_targets_when_another_is_asked_for():
    ended = prove("tpu", path=os.environ["PATH"])
    assert ended.returncode == 2
    assert "no target 'tpu'; it is cpu or gpu" in ended.stderr


def test_the_check_names_the_programs_that_it_misses(tmp_path):
    for program in ("dirname", "grep", "mktemp", "rm"):
        (tmp_path / program).symlink_to(shutil.which(program))
    ended = prove(path=str(tmp_path))
    assert ended.returncode == 2
    assert "missing: buildah curl debootstrap nsenter setpriv unshare; on Debian: apt-get install" in ended.stderr
