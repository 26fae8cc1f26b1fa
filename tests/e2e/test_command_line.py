"""The command line against a real server."""

import io
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from onnxserve._cli.app import app
from support import zoo

ROWS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@pytest.fixture(scope="module", params=["lane", "plain"])
def server(request, serving, tmp_path_factory):
    models = {"double": zoo.double(), "gather": zoo.gather(), "fixed": zoo.fixed()}
    root = zoo.write(tmp_path_factory.mktemp("models"), models, {"double": "labels: {y: [a, b, c]}\nfeedback: {y: x}"})
    with serving(root, edge=request.param) as running:
        yield running


@pytest.fixture
def run(server, tmp_path, monkeypatch):
    """Run a command in a folder with x.npy and x.json."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", ROWS)
    (tmp_path / "x.json").write_text(json.dumps(ROWS.tolist()))

    def invoke(*arguments, stdin=None):
        environment = {"ONNXSERVE_TARGET": server.address, "COLUMNS": "200"}
        return CliRunner().invoke(app, arguments, input=stdin, env=environment)

    return invoke


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_models_are_listed_for_people_and_as_json(run):
    done = run("models")
    assert done.exit_code == 0
    assert "float32[batch, 3]" in done.stdout
    models = json.loads(run("models", "--json").stdout)
    assert [(model["name"], model["version"], model["state"]) for model in models] == [
        ("double", "1", "READY"),
        ("fixed", "1", "READY"),
        ("gather", "1", "READY"),
    ]
    assert models[0]["outputs"][0]["labels"] == ["a", "b", "c"]
    assert models[1]["batching"]["reason"] == "the first axis of input x has the fixed size 4"


@pytest.mark.parametrize(
    ("source", "stdin"),
    [("x.npy", None), ("x.json", None), ("-", npy(ROWS)), ("-", json.dumps(ROWS.tolist()).encode())],
    ids=["npy", "json", "npy from stdin", "json from stdin"],
)
def test_inputs_come_from_files_and_stdin(run, source, stdin):
    done = run("predict", "double", "--input", f"x={source}", "--json", stdin=stdin)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["outputs"]["y"]["data"] == (2 * ROWS).tolist()
    assert answer["receipt"]["provider"] == "CPUExecutionProvider"


def test_the_best_labels_are_printed(run):
    done = run("predict", "double", "--input", "x=x.npy")
    assert done.exit_code == 0
    assert "row 0: c 6, b 4, a 2" in done.stdout


def test_outputs_are_saved(run):
    assert run("predict", "double", "--input", "x=x.npy", "--save", "out.npz").exit_code == 0
    with np.load("out.npz") as saved:
        np.testing.assert_array_equal(saved["y"], 2 * ROWS)


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (("nope", "--input", "x=x.npy"), None, "unknown model 'nope'; available models: double, fixed, gather"),
        (
            ("double", "--input", "x=-"),
            npy(ROWS.astype(np.float64)),
            "inputs[0].data_type: input 'x' is float32, not float64",
        ),
        (("double", "--input", "z=x.npy"), None, "inputs[0].name: unknown input 'z'; the model's inputs are 'x'"),
        (("fixed", "--input", "x=x.npy"), None, "inputs[0].shape: input 'x' has the shape [4, 3], not [2, 3]"),
        (("gather", "--input", "id=-"), b"[[99]]", "idx=99 must be within the inclusive range [-10,9]"),
    ],
    ids=["unknown model", "wrong type", "unknown input", "wrong shape", "failed run"],
)
def test_what_the_server_refuses_is_printed_on_stderr_and_ends_with_1(run, arguments, stdin, says):
    done = run("predict", *arguments, stdin=stdin)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("onnxserve: ")
    assert says in done.stderr


def test_steps_are_printed_one_after_the_other(run):
    done = run("generate", "double", "--input", "x=[[1, 2, 3]]", "--max-steps", "3")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith(("step", "  row"))] == [
        "step 1",
        "  row 0: c 6, b 4, a 2",
        "step 2",
        "  row 0: c 12, b 8, a 4",
        "step 3",
        "  row 0: c 24, b 16, a 8",
    ]
    assert lines[-1].startswith("queue")


@pytest.mark.parametrize(("stop", "last"), [((), 64), (("--stop", "y"), 2), (("--stop", "y=8"), 8)])
def test_steps_as_json_are_a_line_each_up_to_the_stop(run, stop, last):
    done = run("generate", "double", "--input", "x=[[1, 1, 1]]", "--max-steps", "6", "--json", *stop)
    assert done.exit_code == 0, done.output
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[-1]["outputs"]["y"]["data"] == [[last] * 3]
    assert answers[0]["outputs"]["y"]["data"] == [[2.0] * 3]


def test_a_model_that_cannot_go_on_says_so(run):
    done = run("generate", "fixed", "--input", f"x={json.dumps([[1.0] * 3] * 4)}", "--max-steps", "2")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "declares no feedback" in done.stderr


def test_a_mistake_of_use_ends_with_2(run):
    stop = run("generate", "double", "--input", "x=[[1, 1, 1]]", "--max-steps", "2", "--stop", "y=z")
    assert stop.exit_code == 2
    assert "'z' is not a number" in stop.stderr
    assert run("predict", "double", "--input", "absent.npy").exit_code == 2
    assert run("predict").exit_code == 2


def test_the_doctor_tells_people_and_programs(onnxserve, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double(), "fixed": zoo.fixed()})
    done = onnxserve("doctor", "--models", root, "--providers", "cpu")
    assert done.returncode == 0, done.stderr
    assert "model double/1: batched" in done.stdout
    assert "model fixed/1: one request at a time: the first axis of input x has the fixed size 4" in done.stdout
    assert "no problem found" in done.stdout
    as_json = onnxserve("doctor", "--models", root, "--providers", "cpu", "--json")
    found = json.loads(as_json.stdout)
    assert as_json.returncode == 0
    assert found.keys() == {"versions", "machine", "server", "models", "problems"}
    assert [model["model"] for model in found["models"]] == ["double/1", "fixed/1"]


def test_the_doctor_ends_with_1_where_there_is_a_problem(onnxserve, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    (root / "double" / "1" / "model.onnx").write_bytes(b"nothing")
    done = onnxserve("doctor", "--models", root)
    assert done.returncode == 1
    assert "problem: " in done.stdout
    absent = onnxserve("doctor", "--models", tmp_path / "absent")
    assert absent.returncode == 1
    assert f"problem: {tmp_path}/absent: no such directory" in absent.stdout


def test_the_doctor_finds_what_keeps_a_server_from_starting(onnxserve, tmp_path):
    models = {"fixed": zoo.fixed(), "double": zoo.double()}
    configs = {"fixed": "batching: {enabled: true}", "double": "labels: {absent: [a]}"}
    done = onnxserve("doctor", "--models", zoo.write(tmp_path / "models", models, configs), "--json")
    assert done.returncode == 1
    problems = json.loads(done.stdout)["problems"]
    assert any("batching.enabled: the model cannot be batched" in problem for problem in problems)
    assert any("labels.absent: unknown output" in problem for problem in problems)


def test_the_doctor_names_extras_in_full(onnxserve, tmp_path):
    root = zoo.write(tmp_path / "models", {"double": zoo.double()})
    assert "onnxserve[gpu]" in onnxserve("doctor", "--models", root, "--providers", "cuda").stdout
