"""What the documents show works.

Run here, against a server of examples/models: the Python of the guides, and the commands in RUN. Run elsewhere: those
that convert (tests/converters/test_gallery.py), those that make an overlay or a list of models (tests/deploy), and
`make demo` and the examples (tests/test_examples.py). All others are read: the shell's syntax; commands, arguments
and options of onnxserve by its own parser; of make, that there is such a target; of pip, that there are such extras;
of python, docker and kubectl, that the files are there.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from docs_reference import all_commands

from support.markdown import ROOT, blocks, commands, documents

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ONNXSERVE = {name: (command, context) for name, command, context in all_commands()}
COMMANDS = [command for page in documents() for command in commands(page)]
RUN = [
    one
    for one in COMMANDS
    if one.text.startswith(("onnxserve models", "onnxserve predict", "onnxserve generate", "curl"))
]
SHELL = {"cp", "mkdir", "docker", "image=registry.example.com/onnxserve", "rendered()", "rendered", "for", "."}
OTHERS = {  # options of other programs that the prose names
    "--build-arg", "--callers", "--env", "--models", "--requests-scale", "--runs", "--secret", "--soak", "--no-soak",
    "--time", "--tmpfs",
}  # fmt: skip
PYTHON = [
    page
    for page in documents()
    if page.name not in {"convert.md", "explain.md"}  # they need a framework, and a model of the gallery
    and blocks(page.read_text(), "python")
]


def words_of(command):
    """The words of a command without the environment before it, and the programs of the virtual environment by name."""
    words = shlex.split(command.text)
    while "=" in words[0] and len(words) > 1:
        words = words[1:]
    return [words[0].removeprefix(".venv/bin/"), *words[1:]]


def files_in(words):
    """The paths among a command's words that must be there beforehand."""
    return [word for word in words if re.fullmatch(r"(deploy|examples|scripts)/[\w./-]+", word) and "own" not in word]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_one_that_its_program_takes(command):
    subprocess.run(["bash", "-n", "-c", command.text], check=True, timeout=10)
    program, *arguments = words_of(command)
    for file in files_in(arguments):
        assert (ROOT / file).exists()
    match program:
        case "onnxserve":
            parse(arguments)
        case "make":
            targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            assert {word for word in arguments if "=" not in word} <= targets
        case "pip":
            extras = {extra for word in arguments for extra in re.findall(r"\[(.*)\]", word)}
            assert set(",".join(extras).split(",")) <= set(PROJECT["project"]["optional-dependencies"])
        case "python" | "python3":
            assert files_in(arguments) or arguments[0] in {"-m", "-c"}
        case "git" | "kubectl" | "curl" | "bash":
            assert arguments
        case _:
            assert program in SHELL or (ROOT / program).is_file()


def parse(arguments):
    """Have the command line's own parser read a command, without running it."""
    name, *rest = arguments
    command, context = ONNXSERVE[name]
    command.make_context(name, rest, parent=context.parent)


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_in_the_prose_are_there(page):
    options = {option for command, _ in ONNXSERVE.values() for one in command.params for option in _options(one)}
    text = page.read_text()
    for name in re.findall(r"`onnxserve ([a-z]+)\b", text):
        assert name in ONNXSERVE
    for option in set(re.findall(r"`(--[a-z][\w-]*)", text)):
        assert option in options | OTHERS


def _options(parameter):
    return [*parameter.opts, *parameter.secondary_opts, "--help"]


@pytest.fixture(scope="module")
def examples(serving):
    """A server of examples/models, with its page."""
    with serving(ROOT / "examples/models", http_port=0) as server:
        yield server


@pytest.mark.parametrize("text", sorted({one.text for one in RUN}))
def test_a_command_that_calls_the_server_of_the_examples_succeeds(text, examples):
    programs = Path(sys.executable).parent
    ended = subprocess.run(
        ["bash", "-c", text.replace(":8501", f":{examples.app.http_port}")],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "ONNXSERVE_TARGET": examples.address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
    assert "INVALID" not in ended.stdout


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs_from_top_to_bottom(page, examples, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {"__name__": "__main__"}
    for code in blocks(page.read_text(), "python"):
        exec(compile(code.replace("localhost:8500", examples.address), str(page), "exec"), names)
