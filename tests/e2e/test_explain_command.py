"""`onnxserve explain` against a real server."""

import json
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from onnxserve._cli.app import app
from support import explainable, zoo

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def server(serving, tmp_path_factory):
    models = {
        "linear": explainable.linear([[1, -1], [2, 0], [0, 3]]),
        "columns": explainable.columns(),
        "word": explainable.word(["batch"]),
        "bag": explainable.bag([0, 1, -2, 0.5, 4]),
        "patch": explainable.patch((0, 8), (8, 16), ["batch", 16, 16], [1, 2]),
    }
    root = zoo.write(tmp_path_factory.mktemp("models"), models, {"linear": "labels: {scores: [left, right]}"})
    shutil.copytree(EXAMPLES / "models" / "digits", root / "digits")
    with serving(root) as running:
        yield running


@pytest.fixture
def run(server, tmp_path, monkeypatch):
    """Run the command in a folder of inputs."""
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.array([[1, 2, 3], [4, 4, 4]], np.float32))
    np.save("background.npy", np.array([[0, 0, 0], [2, 3, 1]], np.float32))
    np.savez("table.npz", age=np.array([[1.0], [3.0]]), colour=np.array([["red"], ["blue"]]))
    np.save("image.npy", np.eye(16, dtype=np.float32)[np.newaxis])
    np.save("images.npy", np.full((3, 16, 16), 0.5, np.float32))
    (tmp_path / "age.json").write_text("[[9]]")
    (tmp_path / "colour.json").write_text('[["red"]]')
    (tmp_path / "text.json").write_text('["an excellent thing"]')
    (tmp_path / "ids.json").write_text("[[1, 4]]")
    (tmp_path / "weight.json").write_text("[[1, 1]]")
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")

    def invoke(*arguments):
        environment = {"ONNXSERVE_TARGET": server.address, "COLUMNS": "200"}
        return CliRunner().invoke(app, ["explain", *map(str, arguments)], env=environment)

    return invoke


@pytest.mark.parametrize("method", ["shap", "lime"])
def test_a_digit_is_explained_with_a_picture_and_json(run, method):
    digits = EXAMPLES / "data" / "digits_test.npz"
    files = ("--plot", "digit.png", "--json", "digit.json")
    done = run("digits", "--input", f"image={digits}", "--index", 3, "--mask", 0, "--method", method, *files)
    assert done.exit_code == 0, done.output
    picture = matplotlib.image.imread("digit.png")
    assert picture.shape[0] > 300
    assert picture.std() > 0.05
    data = json.loads(Path("digit.json").read_text())
    with np.load(digits) as archive:
        assert data["index"] == archive["label"][3]
    assert (data["kind"], data["method"], data["shape"]) == ("image", method, [32, 32])
    assert data["batch_rows"] > 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"digits version 1: probabilities[9] = 0.99978, {method.upper()} from ")
    assert lines[1].startswith("  +")
    assert " rows " in lines[1]
    assert lines[-1] == f"{data['rows']:,} rows in {data['requests']} requests, up to {data['batch_rows']} rows a run"


def test_a_table_is_explained_by_its_strongest_features(run):
    done = run(
        "linear", "--input", "x=rows.npy", "--index", 0, "--background", "background.npy", "--class", "left",
        "--names", "names.txt",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        "linear version 1: scores[left] = 5, SHAP from 4\n"
        "  +1          two = 2\n"
        "  +0          one = 1\n"
        "  +0          three = 3\n"
        "17 rows in 2 requests, up to 16 rows a run, compared with 2 background rows\n"
    )


COLUMNS = ("columns", "--input", "age=age.json", "--input", "colour=colour.json")


@pytest.mark.parametrize(
    ("arguments", "kind", "names", "values"),
    [
        (
            ("linear", "--input", "x=rows.npy", "--index", 1, "--background", "x=background.npy", "--class", 1),
            "table",
            ["x[0]", "x[1]", "x[2]"],
            [-3, 0, 10.5],
        ),
        (
            (*COLUMNS, "--background", "age=table.npz", "--background", "colour=table.npz", "--names", "A,B"),
            "table",
            ["A", "B"],
            [14, 2.5],
        ),
        (("word", "--input", "text=text.json"), "text", ["an", "excellent", "thing"], [0, 1, 0]),
        (
            ("bag", "--input", "ids=ids.json", "--input", "weight=weight.json", "--mask", 2, "--names", "cat,owl"),
            "tokens",
            ["cat", "owl"],
            [3, 6],
        ),
    ],
    ids=["table", "table of columns", "text", "tokens"],
)
def test_the_kind_is_seen_by_the_models_inputs(run, arguments, kind, names, values):
    done = run(*arguments, "--json", "-")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert (data["kind"], data["names"]) == (kind, names)
    np.testing.assert_allclose(data["values"], values, atol=1e-5)


def test_hidden_pixels_show_the_mean_of_the_background(run):
    done = run("patch", "--input", "image=image.npy", "--kind", "image", "--background", "images.npy", "--json", "-")
    assert json.loads(done.stdout)["base"] == pytest.approx(0.5)


LINEAR = ("linear", "--input", "x=rows.npy", "--index", "0", "--background", "background.npy")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("linear", "--input", "x=rows.npy", "--index", "0"), "a table needs --background"),
        (("linear", "--input", "x=rows.npy", "--background", "background.npy"), "2 rows; choose one with --index"),
        ((*LINEAR, "--index", "2"), "--index 2 is out of range; the file has 2 rows"),
        ((*LINEAR, "--class", "up"), "unknown class 'up'; output 'scores' has 2 classes, which are left, right"),
        ((*LINEAR, "--output", "y"), "unknown output 'y'; the model's outputs are scores (float32)"),
        ((*LINEAR, "--names", "a,b"), "expected 3 names, one for each feature, not 2"),
        ((*LINEAR, "--names", "absent.txt"), "--names absent.txt: "),
        ((*LINEAR, "--background", "image.npy"), "input 'x' has the shape [batch, 3], not [1, 16, 16]"),
        ((*LINEAR, "--background", "absent.npy"), "x=absent.npy: "),
        ((*LINEAR, "--rows", "3"), "rows must be at least 7 for 3 features that vary, not 3"),
        ((*LINEAR, "--method", "tea"), "'tea' is not one of 'shap', 'lime'"),
        ((*LINEAR, "--layout", "NHW"), "--layout is not an option for table; set the kind of instance with --kind"),
        ((*LINEAR, "--kind", "text"), "--background is not an option for text"),
        ((*LINEAR, "--plot", "a.svg"), "a.svg: the name must end with .png"),
        ((*LINEAR, "--plot", "absent/a.png"), "absent is not a directory"),
        ((*LINEAR, "--json", "absent/a.json"), "absent is not a directory"),
        (("patch", "--input", "image=image.npy", "--mask", "red"), "--mask must be a number for images, not 'red'"),
        (
            ("bag", "--input", "ids=ids.json", "--input", "weight=weight.json", "--kind", "tokens"),
            "token ids need --mask",
        ),
        (("columns", "--input", "age=age.json", "--background", "age=age.json"), "input 'colour' is missing"),
        (("columns", "--input", "age=age.json", "--background", "age.json"), "expected name=file, not 'age.json'"),
    ],
)
def test_a_mistake_of_use_ends_with_2_and_says_why(run, arguments, says):
    done = run(*arguments)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert not done.stdout


def test_what_the_server_refuses_ends_with_1(run):
    done = run("nope", "--input", "x=rows.npy")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "unknown model 'nope'" in done.stderr
