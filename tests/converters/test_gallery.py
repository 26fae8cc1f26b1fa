"""Every model of examples/gallery: converted, served at sizes it was not exported with, equal to its framework."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from onnxserve_converters.cases import BATCH_SIZES

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "examples/gallery"
TEXTS = "mood.joblib"  # a model that is made on the page itself

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(GALLERY)  # as for those who run its files
    import run
    from catalogue import ROWS
    from training import read_answers

SEEN = set(BATCH_SIZES) | {3}  # 3: of the example that models are exported with

pytestmark = pytest.mark.timeout(400)  # a model waits for those that are made before it
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
SAMPLE = ("xor", "softmax-keras", "diabetes-tensorflow", "wine-sklearn", "digits-onnx")  # one of each framework
every_model = pytest.mark.parametrize(
    "row", [pytest.param(row, marks=() if row.name in SAMPLE else pytest.mark.slow, id=row.name) for row in ROWS]
)


class Workshop:
    """Trains and converts in the background; report() waits for one model."""

    def __init__(self, folder, rows, threads):
        self.folder = folder
        self._making = {
            row.name: making
            for group in run.by_script(rows)
            for making in [threads.submit(run.make, group, folder)]
            for row in group
        }

    def report(self, row):
        result = self._making[row.name].result()[row.name]
        if isinstance(result, run.GalleryError):
            raise result
        return result


@pytest.fixture(scope="module")
def workshop(request, tmp_path_factory):
    """The models that the chosen tests ask for, as many at a time as there are CPUs."""
    asked = [item.callspec.params["row"] for item in request.session.items if "workshop" in item.fixturenames]
    rows = [row for row in ROWS if row in asked and not run.missing(row)]
    threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    yield Workshop(tmp_path_factory.mktemp("gallery"), rows, threads)
    threads.shutdown(cancel_futures=True)


@pytest.fixture
def report(workshop, row):
    if why := run.missing(row):
        pytest.skip(why)
    return workshop.report(row)


@every_model
def test_a_model_converts_and_proves_itself(row, report):
    takes = {spec.name: {"dtype": spec.dtype, "shape": list(spec.shape)} for spec in row.inputs}
    assert report["model"]["inputs"] == takes
    assert report["model"]["outputs"] == {name: {"shape": list(axes)} for name, axes in row.gives.items()}
    assert report["proof"]["batchable"], report["proof"]["reason"]
    tried = [case["sizes"] for case in report["proof"]["parity"]]
    assert {sizes["batch"] for sizes in tried} == set(BATCH_SIZES)
    for axis in {axis for spec in row.inputs for axis in spec.shape if isinstance(axis, str)} - {"batch"}:
        assert len({sizes[axis] for sizes in tried}) >= 2
    assert run.proved_error(report) < 5e-5


@every_model
def test_a_model_serves_what_its_framework_gives_at_other_sizes(row, report, workshop, serving, tmp_path):
    asked = [len(next(iter(feeds.values()))) for feeds, _ in read_answers(workshop.folder / f"{row.name}.npz")]
    assert len(set(asked) - SEEN) >= 2
    shutil.copytree(workshop.folder / "models" / row.name, tmp_path / row.name)
    with serving(tmp_path) as server:
        assert server.client.model(row.name).batching.enabled
        assert run.ask(server.client, row, workshop.folder).error < 5e-5


def test_the_runner_prints_a_table_of_the_models_asked_for(tmp_path):
    ended = _run_gallery("digits-onnx", "wine-sklearn", "--to", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (row,) = (line for line in ended.stdout.splitlines() if "scikit-learn" in line)
    assert re.fullmatch(r" wine-sklearn +scikit-learn +\.joblib +4 +\de[-+]\d\d +\de[-+]\d\d +\d+ +\d+ +\d+\.\d *", row)
    assert " failed " not in ended.stdout


def test_the_runner_ends_with_1_and_the_reason_where_a_model_fails(tmp_path):
    (tmp_path / "models").write_text("in the way")
    ended = _run_gallery("wine-sklearn", "--to", tmp_path)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "wine-sklearn failed" in ended.stdout
    assert "not a directory" in ended.stdout


def test_the_runner_knows_its_models():
    ended = _run_gallery("lenet")
    assert ended.returncode == 2
    assert "unknown model lenet" in ended.stderr


@pytest.mark.parametrize(
    "got",
    [np.ones((2, 3), np.float32) + 1e-3, np.ones((2, 3), np.float64), np.ones((3, 2), np.float32)],
    ids=["value", "dtype", "shape"],
)
def test_an_answer_that_is_not_the_frameworks_is_an_error(got):
    wanted = np.ones((2, 3), np.float32)
    assert run.difference({"y": wanted}, {"y": wanted}) == 0
    with pytest.raises(run.GalleryError, match="output y: "):
        run.difference({"y": got}, {"y": wanted})


def test_every_format_is_in_the_gallery():
    formats = {row.suffix for row in ROWS} | {option for row in ROWS for option in row.options}
    assert {".pt", ".pth", ".pt2", ".safetensors", ".keras", ".h5", ".json", "", ".joblib", ".onnx", None} <= formats
    assert "--trust-code" in formats


def test_every_command_of_the_page_on_converting_is_one_of_the_gallery():
    page = (ROOT / "docs/guides/convert.md").read_text().split("## By source")[1].replace("\\\n", "")
    commands = [
        shlex.split(line.removeprefix("$ "))
        for line in page.splitlines()
        if line.startswith("$ onnxserve convert") and TEXTS not in line
    ]
    known = [sorted(row.command(Path("build/gallery"), Path("models"))) for row in ROWS if row.suffix is not None]
    assert len(commands) >= 9
    for command in commands:
        target = command.index("--to") + 1
        command[target] += "/1"  # the gallery names the version that is the next
        assert sorted(command[1:]) in known, command


def test_the_model_of_texts_on_that_page_is_made_and_converted_as_it_says(tmp_path):
    page = (ROOT / "docs/guides/convert.md").read_text()
    [made] = [block for block in page.split("```python\n")[1:] if TEXTS in block]
    [command] = [
        line.removeprefix("$ ") for line in page.splitlines() if line.startswith(f"$ onnxserve convert {TEXTS}")
    ]
    for arguments in (["-c", made.split("```")[0]], ["-m", *shlex.split(command)]):
        subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "models/mood/1/model.onnx").is_file()


@every_row
def test_a_file_says_how_its_models_are_converted(row):
    about = (GALLERY / row.script).read_text().split('"""')[1].replace("\\\\\n", "")
    commands = [shlex.split(line) for line in about.splitlines() if line.startswith("    onnxserve convert")]
    if row.suffix is None:
        assert not commands
    else:
        *arguments, _, _ = row.command(Path("build/gallery"), Path("models"))
        assert ["onnxserve", *_from_root(arguments), "--to", f"models/{row.name}"] in commands


@every_row
def test_the_readme_names_the_model_and_its_file(row):
    assert re.search(rf"^\| `{row.name}` \|.*\({row.script}\)", (GALLERY / "README.md").read_text(), re.MULTILINE)


def _from_root(arguments):
    return [argument.replace(f"{ROOT}/", "") for argument in arguments]


def _run_gallery(*arguments):
    return subprocess.run(
        [sys.executable, GALLERY / "run.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
