"""Whole conversions of ONNX files, which need no framework, in their worker processes."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxserve_converters.errors import BadRequest, NotProved
from onnxserve_converters.request import TOLERANCES
from onnxserve_server.runtime.prober import Prober
from onnxserve_server.runtime.session import SessionOptions
from support import zoo, zoo_rows
from support.converting import convert
from support.folders import listing

DIGITS = Path(__file__).parents[2] / "examples/models/digits/1/model.onnx"


@pytest.fixture
def source(tmp_path):
    """Write a model of the zoo to a file."""

    def write(made, name="source.onnx"):
        onnx.save(made, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The repository that the digits were converted into, with every stage that came up."""
    root, stages = tmp_path_factory.mktemp("area") / "models", []
    done = convert(DIGITS, root / "digits", progress=stages.append)
    return root, done, stages


def test_the_stages_come_up_in_their_order(digits):
    assert digits[2] == ["load", "reference", "export", "check", "prove", "publish"]


def test_a_version_is_published_with_its_report_and_nothing_else(digits):
    root, done, _ = digits
    assert done.path == root / "digits" / "1"
    assert {str(path.relative_to(root.parent)) for path in root.parent.rglob("*")} == {
        "models",
        "models/digits",
        "models/digits/1",
        "models/digits/1/model.onnx",
        "models/digits/1/report.json",
    }
    assert json.loads((done.path / "report.json").read_text()) == done.report


def test_the_report_says_what_was_compared(digits):
    report = digits[1].report
    assert report["source"]["kind"] == "onnx"
    assert len(report["source"]["sha256"]) == len(report["model"]["sha256"]) == 64
    assert [row["sizes"] for row in report["proof"]["parity"]] == [{"batch": size} for size in (1, 2, 7, 32)]
    assert all(row["passes"] for row in report["proof"]["parity"])
    assert report["versions"].keys() >= {"onnxserve", "onnx", "onnxruntime", "numpy", "python"}
    assert report["seconds"] > 0


def test_ranges_and_samples_reach_the_check_of_rows_there_and_on_the_server(source, tmp_path):
    file, inputs = source(zoo_rows.loud_neighbour(7)), "x=float32[n,4]"
    alone = convert(file, tmp_path / "area" / "alone", inputs)
    quiet = convert(file, tmp_path / "area" / "quiet", inputs, ranges={"x": (0, 5)})
    np.savez(tmp_path / "some.npz", x=np.arange(48, dtype=np.float32).reshape(12, 4) % 6)
    sampled = convert(file, tmp_path / "area" / "sampled", inputs, samples=tmp_path / "some.npz")
    assert "check" not in alone.report
    assert quiet.report["check"] == {"ranges": {"x": [0, 5]}}
    assert sampled.report["check"]["ranges"] == {"x": [0.0, 5.0]}
    assert np.shape(sampled.report["check"]["rows"]["x"]) == (8, 4)
    reasons = {done.path.parent.name: done.report["proof"]["reason"] for done in (alone, quiet, sampled)}
    with Prober() as prober:
        for done in (alone, quiet, sampled):
            reason = prober.probe(done.path / "model.onnx", SessionOptions()).verdict.reason
            assert reason == reasons[done.path.parent.name]
            assert ("depends on the other rows" in reason) == (done is alone)


def test_the_report_has_the_options_without_the_directories_of_files(source, tmp_path):
    assert convert(source(zoo.double()), tmp_path / "net").report["asked"] == {}
    np.savez(tmp_path / "some.npz", x=np.ones((4, 3), np.float32))
    asked = {"samples": tmp_path / "some.npz", "sizes": {"batch": (2, 3)}}
    report = convert(source(zoo.double()), tmp_path / "net", "x=float32[batch,3]", **asked).report
    assert report["asked"] == {"inputs": ["x=float32[batch,3]"], "samples": "some.npz", "sizes": {"batch": [2, 3]}}
    assert str(tmp_path) not in json.dumps(report)


def test_what_is_published_can_be_read_by_others(digits):
    _, done, _ = digits
    umask = os.umask(0)
    os.umask(umask)
    for path in (done.path, done.path.parent, done.path.parent.parent, *done.path.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_the_server_serves_what_was_published_at_other_batch_sizes(digits, serving):
    root, _, _ = digits
    images = np.load(DIGITS.parents[3] / "data/digits_test.npz")
    with serving(root) as server:
        model = server.client.model("digits")
        assert (model.batching.enabled, model.outputs[0].labels) == (True, tuple("0123456789"))
        for rows in (1, 5, 64):
            answer = server.client.predict("digits", {"image": images["image"][:rows]})["probabilities"]
            assert (answer.argmax(axis=1) == images["label"][:rows]).mean() > 0.9


def test_a_graph_that_kills_onnx_runtime_is_published_with_the_setting_that_spares_it(source, tmp_path, serving):
    done = convert(source(zoo.crashing()), tmp_path / "models" / "lstm")
    assert (done.path.parent / "model.yaml").read_text() == "graph_optimization: layout\n"
    with serving(tmp_path / "models") as server:
        answer = server.client.predict("lstm", {"x": np.zeros((2, 3, 2), np.float16)})
    assert answer["y"].shape == (2, 3, 5)


def test_labels_of_no_output_by_name_are_the_first_ones(source, tmp_path):
    done = convert(source(zoo.two_by_two()), tmp_path / "net", labels={"": ["no", "yes"], "q": ["a", "b", "c"]})
    written = {entry.key: entry.value for entry in onnx.load(done.path / "model.onnx").metadata_props}
    assert json.loads(written["labels"]) == {"p": ["no", "yes"], "q": ["a", "b", "c"]}


def test_another_number_of_labels_is_refused(area):
    before = listing(area)
    with pytest.raises(BadRequest, match="--labels probabilities: 2 names for 10 classes"):
        convert(DIGITS, area / "models" / "net", labels={"": ["a", "b"]})
    assert listing(area) == before


def test_nothing_is_published_that_was_not_proved(area):
    before = listing(area)
    with pytest.raises(NotProved, match="output probabilities with batch=1: error ") as caught:
        convert(DIGITS, area / "models" / "net", tolerances={**TOLERANCES, "float32": 0.0})
    assert [row["passes"] for row in caught.value.report["parity"]] == [False] * 4
    assert listing(area) == before


def test_a_version_that_exists_is_refused_before_any_work(area):
    before, stages = listing(area), []
    with pytest.raises(BadRequest, match=r"net/1: this version exists; replace it with --replace"):
        convert(DIGITS, area / "models" / "net" / "1", progress=stages.append)
    assert (listing(area), stages) == (before, [])


def test_a_version_is_replaced_when_asked(area):
    assert convert(DIGITS, area / "models" / "net" / "1", replace=True).path == area / "models" / "net" / "1"
    assert listing(area).keys() == {
        "models",
        "models/net",
        "models/net/1",
        "models/net/1/model.onnx",
        "models/net/1/report.json",
    }


def test_conversions_to_one_name_at_one_time_get_different_versions(source, area):
    file = source(zoo.double())
    with ThreadPoolExecutor() as threads:
        done = list(threads.map(lambda _: convert(file, area / "models" / "net"), range(3)))
    assert sorted(each.path.name for each in done) == ["2", "3", "4"]
    assert not list(area.rglob(".*"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"source.onnx: no such file"),
        (b"", r"source.onnx: the file is empty"),
        (b"nothing of the kind", r"source.onnx: not a valid ONNX file"),
    ],
    ids=["absent", "empty", "text"],
)
def test_a_source_that_is_none_is_refused(content, says, tmp_path):
    if content is not None:
        (tmp_path / "source.onnx").write_bytes(content)
    with pytest.raises(BadRequest, match=says):
        convert(tmp_path / "source.onnx", tmp_path / "models" / "net")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("to", ["{area}/models/net/1/model.onnx/net", "/proc/models/net"])
def test_a_target_that_cannot_be_written_to_is_refused_before_any_work(to, area):
    stages = []
    with pytest.raises(BadRequest, match=r"cannot be written|not a directory"):
        convert(DIGITS, to.format(area=area), progress=stages.append)
    assert stages == []


def test_what_lies_in_the_working_directory_is_not_run(tmp_path):
    """A folder with a model may come from elsewhere, with modules in it that have the names of those we import."""
    for name in ("json", "pickle", "ctypes", "onnx", "numpy", "onnxserve_server"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('it was run')")
    script = tmp_path / "elsewhere" / "convert.py"
    script.parent.mkdir()
    script.write_text(
        "import sys\n"
        "from onnxserve_converters.conversion import run\n"
        "from onnxserve_converters.request import Request\n"
        "from pathlib import Path\n"
        "run(Request(source=Path(sys.argv[1])), 'models/net')\n"
    )
    ended = subprocess.run([sys.executable, script, DIGITS], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "models" / "net" / "1").is_dir()
