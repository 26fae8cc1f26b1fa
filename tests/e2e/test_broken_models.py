"""Broken models: each ends the start with one line, or is skipped with one line while the others serve."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from numpy.lib import format as npy
from typer.testing import CliRunner

from onnxserve import Client
from onnxserve._cli.app import app
from support import zoo

X = np.ones((1, 3), np.float32)
STATE = "state: [{input: s, output: s_out, initial: s.npy}]"


def yaml(text):
    """A model with that model.yaml."""

    def spoil(folder):
        (folder / "model.yaml").write_text(text)

    return spoil


def removed(folder):
    (folder / "1" / "model.onnx").unlink()
    (folder / "1").rmdir()


def empty_version(folder):
    (folder / "2").mkdir()


def other_file(folder):
    (folder / "1" / "model.onnx").rename(folder / "1" / "model.pb")


def other_suffix(folder):
    (folder / "model.yml").touch()


def dangling_folder(target):
    def spoil(folder):
        folder.rename(folder.parent.parent / f"away_{folder.name}")
        folder.symlink_to(target)

    return spoil


def dangling(name):
    def spoil(folder):
        (folder / name).symlink_to("gone")

    return spoil


def dangling_model(folder):
    removed(folder)
    (folder / "1").mkdir()
    (folder / "1" / "model.onnx").symlink_to("/gone")


def pipe(name):
    """A pipe that nobody writes to, in the place of a file."""

    def spoil(folder):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def same_version(folder):
    (folder / "01").mkdir()


def wide(folder):
    made = zoo.model(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        [zoo.tensor("x", ["batch", 2**40])],
        [zoo.tensor("y", ["batch", 2**40])],
    )
    onnx.save(made, folder / "1" / "model.onnx")


def many_inputs(folder):
    onnx.save(zoo.table(4097), folder / "1" / "model.onnx")


def initial(make):
    """A stateful model, and what its initial state is."""

    def spoil(folder):
        onnx.save(zoo.recurrent(), folder / "1" / "model.onnx")
        (folder / "model.yaml").write_text(STATE)
        make(folder / "s.npy")

    return spoil


def claims_8_tib(path):
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**41,)})


def elsewhere(path):
    """A file outside of the model's folder, by a link."""
    np.save(path.parent.parent.parent / "secret.npy", np.zeros(2, np.float32))
    path.symlink_to("../../secret.npy")


def initial_in_metadata(value):
    def spoil(folder):
        np.save(folder.parent.parent / "secret.npy", np.zeros(2, np.float32))
        made = zoo.recurrent()
        value_ = value.format(root=folder.parent.parent)
        pair = {"input": "s", "output": "s_out", "initial": value_}
        onnx.helper.set_model_props(made, {"state": json.dumps([pair])})
        onnx.save(made, folder / "1" / "model.onnx")

    return spoil


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

BROKEN = {
    "unknown_key": (yaml("treads: 2"), "unknown_key/model.yaml: treads: unknown setting"),
    "no_yaml": (yaml("a: b: c"), "no_yaml/model.yaml: not valid YAML: line 1, column 5"),
    "no_version": (removed, "no_version: has no versions; expected"),
    "empty_version": (empty_version, "empty_version/2/model.onnx: no such file"),
    "other_file": (other_file, "other_file/1/model.onnx: no such file; the version has model.pb instead"),
    "two words": (lambda _: None, "two words: not a valid model name"),
    "__pycache__": (lambda _: None, "__pycache__: not a valid model name"),
    "yml": (other_suffix, "yml/model.yml: not read as configuration; rename it to model.yaml"),
    "dangling": (dangling_folder("gone"), "dangling: a link to gone, which does not exist; repair or remove it"),
    "far": (dangling_folder("a" * 300), "far: a link to aaa"),  # longer than a name may be
    "dangling_version": (dangling("2"), "dangling_version/2: a link to gone, which does not exist"),
    "dangling_yaml": (dangling("model.yaml"), "dangling_yaml/model.yaml: a link to gone, which does not exist"),
    "dangling_yml": (dangling("model.yml"), "dangling_yml/model.yml: not read as configuration"),
    "dangling_model": (dangling_model, "dangling_model/1/model.onnx: a link to /gone, which does not exist"),
    "same_version": (same_version, "same_version: 01 and 1 are the same version; remove one of them"),
    "wide": (wide, "wide/1/model.onnx: one row of its inputs has 4398046511104 bytes"),
    "many_inputs": (many_inputs, "many_inputs/1/model.onnx: it has 4097 inputs, and a request may have 4096"),
    "deep_yaml": (
        yaml("[" * 3000 + "]" * 3000),
        "deep_yaml/model.yaml: not valid YAML: line 1, column 1058: nested more than 32 levels deep",
    ),
    "aliases": (yaml(ALIASES), "aliases/model.yaml: not valid YAML: line"),
    "endless_alias": (yaml("labels: &a {y: [*a]}"), "endless_alias/model.yaml: not valid YAML: "),
    "large_yaml": (yaml("#" * (1 << 20) + "\n"), "large_yaml/model.yaml: larger than 1048576 bytes"),
    "key_twice": (yaml("threads: 1\nthreads: 2"), "not valid YAML: line 2, column 1: key 'threads' is given twice"),
    "digits": (yaml(f"threads: {'9' * 400}"), "digits/model.yaml: threads: input should be less than or equal to 1024"),
    "many_digits": (
        yaml(f"threads: {'9' * 5000}"),
        "many_digits/model.yaml: not valid YAML: line 1, column 10: a number of more than",
    ),
    "threads": (yaml("threads: 1024\ninstances: 64"), "threads/model.yaml: instances: 64 and threads: 1024 are 65536"),
    "rows": (yaml("batching: {max_rows: 4294967296}"), "rows/model.yaml: batching.max_rows: input should be less than"),
    "surrogate": (
        yaml('labels: {y: ["\\ud800"]}'),
        "surrogate/model.yaml: not valid YAML: line 1, column 14: not valid Unicode: it has a lone surrogate",
    ),
    "surrogate_key": (
        yaml('session_config: {"\\ud800": 1}'),
        "surrogate_key/model.yaml: not valid YAML: line 1, column",
    ),
    "provider_options": (
        yaml("providers: [tensorrt, {cpu: {a: [1]}}]"),
        "provider_options/model.yaml: providers: each of a list must be a name",
    ),
    "pipe_yaml": (pipe("model.yaml"), "pipe_yaml/model.yaml: not a regular file"),
    "pipe_model": (pipe("1/model.onnx"), "pipe_model/1/model.onnx: not a regular file"),
    "pipe_npy": (initial(os.mkfifo), "pipe_npy/s.npy: not a regular file"),
    "device_yaml": (
        lambda folder: (folder / "model.yaml").symlink_to("/dev/zero"),
        "device_yaml/model.yaml: not a regular file",
    ),
    "npy_claims": (initial(claims_8_tib), "npy_claims/model.yaml: state[0].initial: "),
    "npy_link": (initial(elsewhere), "npy_link/s.npy: lies outside of"),
    "npy_absolute": (initial_in_metadata("{root}/secret.npy"), "state[0].initial: /"),
    "npy_above": (initial_in_metadata("../../secret.npy"), "secret.npy: lies outside of"),
}


@pytest.fixture
def broken(tmp_path):
    """Write a repository of a good model and of broken ones by name."""

    def make(names):
        root = zoo.write(tmp_path / "models", {"good": zoo.double()} | {name: zoo.double() for name in names})
        for name in names:
            BROKEN[name][0](root / name)
        return root

    return make


def test_each_broken_model_is_skipped_with_one_line_and_the_others_serve(broken, tmp_path):
    log = tmp_path / "log"
    flags = ["--port=0", "--http-port=-1", "--providers=cpu", "--threads=1", "--log-format=json"]
    command = [sys.executable, "-m", "onnxserve", "serve", "--models", broken(BROKEN), "--skip-broken-models", *flags]
    with log.open("w") as stderr:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        address = server.stdout.readline().split()[-1]
        with Client(address, retries=0) as client:
            assert [model.name for model in client.models()] == ["good"]
            assert client.predict("good", {"x": X})["y"].tolist() == [[2, 2, 2]]
    finally:
        server.terminate()
        server.communicate(timeout=60)
    text = log.read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert {record["level"] for record in records} == {"info", "error"}
    errors = [record["message"] for record in records if record["level"] == "error"]
    assert len(errors) == len(BROKEN)
    for name, (_, says) in BROKEN.items():
        (line,) = [line for line in errors if line.startswith((f"model {name} is", f"model {name}/"))]
        assert says in line


@pytest.mark.parametrize("name", ["dangling", "dangling_version", "dangling_yaml", "dangling_yml", "__pycache__"])
def test_nothing_dangling_or_misnamed_is_passed_over(broken, name):
    done = CliRunner().invoke(app, ["serve", "--models", str(broken([name])), "--port=0", "--http-port=-1"])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert BROKEN[name][1] in line


def test_the_doctor_names_every_broken_model(broken, onnxserve):
    names = ["unknown_key", "dangling", "empty_version"]
    done = onnxserve("doctor", "--models", broken(names), "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [model["model"] for model in found["models"]] == ["good/1"]
    for name in names:
        assert any(BROKEN[name][1] in problem for problem in found["problems"])
