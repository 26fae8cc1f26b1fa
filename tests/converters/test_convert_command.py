import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from onnxserve._cli.app import app
from support import zoo
from support.folders import listing
from support.waiting import until

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples/models/digits/1/model.onnx"
HELD_OUT = ROOT / "examples/data/digits_test.npz"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})

    return invoke


def test_a_conversion_prints_its_stages_its_comparison_and_how_to_serve_it(run):
    done = run("convert", DIGITS, "--to", "models/digits")
    assert done.exit_code == 0, done.output
    assert re.findall(r"^(\w+) +\d+\.\d s$", done.stderr, re.MULTILINE) == [
        "load",
        "reference",
        "export",
        "check",
        "prove",
        "publish",
    ]
    assert re.findall(r"^probabilities +batch=(\d+) +[\d.e-]+ +[\d.e-]+ +same", done.stdout, re.MULTILINE) == [
        "1",
        "2",
        "7",
        "32",
    ]
    assert "published models/digits/1 (24" in done.stdout
    assert "onnxserve serve --models models\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("proved on made-up rows: nothing tells what rows of image look like")


def test_the_last_line_says_what_the_verdict_rests_on(run):
    done = run("convert", DIGITS, "--to", "models/digits", "--samples", HELD_OUT)
    assert done.stdout.splitlines()[-1] == "proved on your samples, 450 rows"
    done = run("convert", DIGITS, "--to", "models/digits", "--range", "image=0:1")
    assert done.stdout.splitlines()[-1] == "proved on rows drawn from the model (image: from 0 to 1, as asked)"
    assert run("inspect", "models/digits").stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


def test_samples_come_as_a_table(run):
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    onnx.save(zoo.model(nodes, [zoo.tensor("x", ["batch", 2])], [zoo.tensor("y", ["batch", 2])]), "net.onnx")
    Path("some.csv").write_text("a,b,label\n3,1e6,0\n,2,1\n")
    done = run("convert", "net.onnx", "--to", "models/net", "--samples", "some.csv", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["report"]["proof"]["basis"]["rows"] == "samples"


def test_every_option_reaches_the_conversion(run, tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"name {number}\n" for number in range(10)))
    done = run(
        *("convert", DIGITS, "--to", "models/net/7", "--json", "--doc", "It reads.", "--labels", "names.txt"),
        *("--input", "image=float32[rows,3,32,32]", "--output", "scores", "--size", "rows=2,5"),
        *("--range", "image=0:1", "--tolerance", "float32=1e-3", "--external-data-above", 0, "--optimize"),
        *("--samples", HELD_OUT, "--max-error", 0.2, "--quantize", "static", "--calibration", HELD_OUT),
        *("--timeout", 600, "--memory", 16, "--replace"),
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    report = result["report"]
    assert result["path"] == "models/net/7"
    assert report == json.loads(Path("models/net/7/report.json").read_text())
    assert report["model"]["inputs"] == {"image": {"dtype": "float32", "shape": ["rows", 3, 32, 32]}}
    assert report["model"]["outputs"] == {"scores": {"shape": ["rows", 10]}}
    assert {row["sizes"]["rows"] for row in report["proof"]["parity"]} == {2, 5}
    assert [step["step"] for step in report["shrinking"]] == ["optimize", "quantize static"]
    assert report["accuracy"]["share"] > 0.9
    assert Path("models/net/7/model.onnx.data").exists()
    written = {entry.key: entry.value for entry in onnx.load("models/net/7/model.onnx").metadata_props}
    assert json.loads(written["labels"]) == {"scores": [f"name {number}" for number in range(10)]}


def test_steps_are_printed_with_before_and_after(run):
    done = run("convert", DIGITS, "--to", "models/net", "--quantize", "dynamic", "--samples", HELD_OUT)
    assert done.exit_code == 0, done.output
    assert re.search(r"^step +KiB +µs at batch 1 +µs at batch 16 +error +accuracy +pays", done.stdout, re.MULTILINE)
    assert re.search(r"^quantize dynamic +245 → \d+ ", done.stdout, re.MULTILINE)
    assert re.search(r"^accuracy 9\d\.\d\d% on 450 rows$", done.stdout, re.MULTILINE)


def test_as_json_nothing_else_is_printed(run):
    done = run("convert", DIGITS, "--to", "models/net", "--json")
    assert json.loads(done.stdout).keys() == {"path", "report"}
    assert done.stderr == ""


def test_what_is_not_proved_is_printed_with_the_rows_that_fail_and_ends_with_1(run):
    done = run("convert", DIGITS, "--to", "models/net", "--tolerance", "float32=0")
    assert done.exit_code == 1
    assert len(re.findall(r"^probabilities +batch=\d+ .* DIFFERS", done.stdout, re.MULTILINE)) == 4
    assert "prove  " in done.stderr
    assert "failed" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("onnxserve: the ONNX file does not match the model: output probabilities with batch=1")
    assert not Path("models").exists()


def test_what_is_not_proved_is_printed_as_json_too(run):
    done = run("convert", DIGITS, "--to", "models/net", "--tolerance", "float32=0", "--json")
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert result["error"].startswith("the ONNX file does not match")
    assert [row["passes"] for row in result["report"]["parity"]] == [False] * 4
    assert done.stderr == f"onnxserve: {result['error']}\n"


def test_limits_end_with_1(run):
    for limit in (("--timeout", 0.1), ("--memory", 0.01)):
        done = run("convert", DIGITS, "--to", "models/net", *limit)
        assert done.exit_code == 1
        assert f"allow more with {limit[0]}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("absent.onnx",), "onnxserve: absent.onnx: no such file\n"),
        (("names.txt",), "names.txt: unknown file format; expected TorchScript .pt"),
        ((DIGITS, "--to", "models/.."), "--to models/..: expected REPOSITORY/NAME"),
        ((DIGITS, "--to", "names.txt/net"), "names.txt: not a directory"),
        ((DIGITS, "--input", "image"), "input 'image': expected name=dtype"),
        ((DIGITS, "--input", "other=float32[n]"), "other"),
        ((DIGITS, "--size", "batch"), "size 'batch': expected axis=size,size"),
        ((DIGITS, "--size", "width=1,2"), "size width: unknown free axis; the model has batch"),
        ((DIGITS, "--range", "image=1"), "range 'image=1': expected input=low:high"),
        ((DIGITS, "--tolerance", "float32"), "--tolerance float32: expected dtype=share"),
        ((DIGITS, "--tolerance", "int8=1"), "tolerance int8: only float16"),
        ((DIGITS, "--class-args", "{"), "--class-args: not valid JSON"),
        ((DIGITS, "--class-args", "[1]"), "--class-args: expected a JSON object"),
        ((DIGITS, "--labels", "absent.txt"), "--labels absent.txt: cannot be read"),
        ((DIGITS, "--labels", "names.txt"), "--labels probabilities: 2 names for 10 classes"),
        (
            (DIGITS, "--labels", "other=names.txt"),
            "--labels other: unknown output; the model's outputs are probabilities",
        ),
        ((DIGITS, "--labels", "number.json"), "--labels number.json: expected one name a line, or JSON"),
        ((DIGITS, "--samples", "names.txt"), "names.txt: not a readable .npz file"),
        ((DIGITS, "--output", "a", "--output", "b"), "--output: 2 names for 1 outputs"),
    ],
)
def test_a_request_that_cannot_be_fulfilled_is_refused_in_one_line_and_ends_with_2(run, tmp_path, arguments, says):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "number.json").write_text("3")
    before = listing(tmp_path)
    done = run("convert", *arguments, *(() if "--to" in arguments else ("--to", "models/net")))
    assert (done.exit_code, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("onnxserve: ")
    assert says in last + "\n"
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"names.txt": "no\nyes\n"}, {"p": ["no", "yes"]}),
        ({"names.json": '["no", "yes"]'}, {"p": ["no", "yes"]}),
        ({"names.json": '{"p": ["no", "yes"], "q": ["a", "b", "c"]}'}, {"p": ["no", "yes"], "q": ["a", "b", "c"]}),
        ({"names.txt": "no\nyes", "q=other.txt": "a\nb\nc"}, {"p": ["no", "yes"], "q": ["a", "b", "c"]}),
    ],
    ids=["lines", "list", "object", "two files"],
)
def test_labels_come_as_lines_or_json(run, tmp_path, files, wanted):
    onnx.save(zoo.two_by_two(), tmp_path / "source.onnx")
    for name, text in files.items():
        Path(name.rpartition("=")[2]).write_text(text)
    done = run("convert", "source.onnx", "--to", "net", *(part for name in files for part in ("--labels", name)))
    assert done.exit_code == 0, done.output
    written = {entry.key: entry.value for entry in onnx.load("net/1/model.onnx").metadata_props}
    assert json.loads(written["labels"]) == wanted


def test_every_option_is_explained(run):
    text = run("convert", "--help").stdout
    options = set(re.findall(r"(--[a-z0-9-]+) ", text))
    assert {"--to", "--input", "--trust-code", "--quantize", "--external-data-above", "--json"} <= options
    assert "image=float32[batch,3,32,32]" in text


def test_what_would_steer_a_terminal_is_not_printed(run, tmp_path):
    done = run("convert", "\x1b[31mabsent.onnx", "--to", "models/net")
    assert done.exit_code == 2
    assert "\x1b" not in done.stderr


def test_ctrl_c_ends_it_with_130_and_leaves_nothing(tmp_path):
    arguments = ("convert", DIGITS, "--to", "models/net", "--optimize", "--quantize", "dynamic")
    with subprocess.Popen(
        [sys.executable, "-m", "onnxserve", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as popen:
        assert popen.stderr.readline().startswith("load")
        assert list(tmp_path.glob(".onnxserve-*"))
        popen.send_signal(signal.SIGINT)
        output = popen.stderr.read()
    assert popen.returncode == 130
    assert output.splitlines()[-1].startswith("onnxserve: interrupted")
    assert listing(tmp_path) == {}


def test_sigterm_leaves_nothing(tmp_path):
    arguments = ("convert", DIGITS, "--to", "models/net", "--optimize")
    with subprocess.Popen(
        [sys.executable, "-m", "onnxserve", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as popen:
        assert popen.stderr.readline().startswith("load")
        popen.terminate()
    assert popen.returncode == -signal.SIGTERM
    until(lambda: listing(tmp_path) == {})


def read(terminal):
    """Return what was written to a terminal; nothing once nobody can write to it."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO, Linux's sign of the end
        return b""


def test_at_a_terminal_the_stage_that_is_on_is_shown(tmp_path):
    ours, theirs = os.openpty()
    arguments = ("convert", DIGITS, "--to", "models/net")
    with subprocess.Popen(
        [sys.executable, "-m", "onnxserve", *arguments], cwd=tmp_path, stderr=theirs, stdout=subprocess.DEVNULL
    ) as popen:
        os.close(theirs)
        output = b"".join(iter(lambda: read(ours), b""))
    os.close(ours)
    assert popen.returncode == 0
    assert b"\x1b[" in output
    assert re.search(rb"publish +\d+\.\d s", output)


def test_inspect_shows_what_a_file_is_made_of(run, tmp_path):
    run("convert", DIGITS, "--to", "models/digits")
    for path in ("models/digits", "models/digits/1", "models/digits/1/model.onnx"):
        done = run("inspect", path)
        assert done.exit_code == 0, done.output
        for text in ("float32[batch, 3, 32, 32]", "probabilities", "Conv 2", "ai.onnx 20", "compared with", "labels"):
            assert text in done.stdout
    found = json.loads(run("inspect", "models/digits", "--json").stdout)
    assert found["report"]["source"]["file"] == "model.onnx"


def test_inspect_survives_reports_of_others(run, tmp_path):
    onnx.save(zoo.double(), tmp_path / "model.onnx")
    for text in ('{"proof": 3}', "[1, 2]", '"\\u001b[31m"', '{"proof": {"parity": [{}]}}'):
        (tmp_path / "report.json").write_text(text)
        done = run("inspect", ".")
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.stdout


def test_inspect_of_what_is_none_ends_with_2(run, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing of the kind")
    for path in ("absent", ".", "model.onnx"):
        done = run("inspect", path)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("onnxserve: ")
    done = run("inspect", "absent", "--json")
    assert json.loads(done.stdout)["error"]


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_without_its_packages_a_command_names_their_extra(command):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['onnx', 'onnxslim'])); "
        "from onnxserve.__main__ import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, command, "model.pt", "--to", "x/y"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"onnxserve: {command} needs an extra: pip install 'onnxserve[cpu,convert]'\n"


def test_accuracy_needs_a_class_for_each_sample(run):
    images = np.zeros((4, 3, 32, 32), np.float32)
    np.savez("some.npz", image=images, label=np.zeros(3, np.int64))
    done = run("convert", DIGITS, "--to", "models/net", "--samples", "some.npz")
    assert done.exit_code == 2
    assert "some.npz: array 'label' is int64[3]" in done.stderr
