"""Whole conversions, in their child processes, of ONNX files: they need no framework."""

import json
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from onnxserve_converters import conversion
from onnxserve_converters.conversion import STAGES, Limits
from onnxserve_converters.errors import BadRequest, ExportFailed, NotProved
from onnxserve_converters.inputs import InputSpec
from onnxserve_converters.request import TOLERANCES, Request
from support import zoo
from support.folders import listing
from support.waiting import until

DIGITS = Path(__file__).parents[2] / "examples/models/digits/1/model.onnx"


def options(stage):
    """What a request must ask for so that a stage comes up."""
    return {
        "optimize": {"optimize": True},
        "quantize": {"quantize": "dynamic"},
        "float16": {"float16": True},
        "measure": {"optimize": True},
    }.get(stage, {})


def run(source, to, **asked):
    own = {name: asked.pop(name) for name in ("replace", "limits", "progress") if name in asked}
    return conversion.run(Request(source=Path(source), **asked), to, **own)


@pytest.fixture
def source(tmp_path):
    """Write a model of the zoo to a file."""

    def write(made, name="source.onnx"):
        onnx.save(made, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def area(tmp_path):
    """A folder with a repository that has one version of one model."""
    zoo.write(tmp_path / "area" / "models", {"net": zoo.double()})
    return tmp_path / "area"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The repository that the digits were converted into, with every stage that came up."""
    root, stages = tmp_path_factory.mktemp("area") / "models", []
    done = run(DIGITS, root / "digits", progress=stages.append)
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


def test_the_report_tells_what_was_compared(digits):
    report = digits[1].report
    assert report["source"]["kind"] == "onnx"
    assert len(report["source"]["sha256"]) == len(report["model"]["sha256"]) == 64
    assert [row["sizes"] for row in report["proof"]["parity"]] == [{"batch": size} for size in (1, 2, 7, 32)]
    assert all(row["passes"] for row in report["proof"]["parity"])
    assert report["versions"].keys() >= {"onnxserve", "onnx", "onnxruntime", "numpy", "python"}
    assert report["seconds"] > 0


def test_the_report_tells_what_was_asked_for_without_where_it_lay(source, tmp_path):
    assert run(source(zoo.double()), tmp_path / "net").report["asked"] == {}
    np.savez(tmp_path / "some.npz", x=np.ones((4, 3), np.float32))
    inputs = (InputSpec("x", "float32", ("batch", 3)),)
    asked = {"samples": tmp_path / "some.npz", "sizes": {"batch": (2, 3)}, "inputs": inputs}
    report = run(source(zoo.double()), tmp_path / "net", **asked).report
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
        told = server.client.model("digits")
        assert (told.batching.enabled, told.outputs[0].labels) == (True, tuple("0123456789"))
        for rows in (1, 5, 64):
            answer = server.client.predict("digits", {"image": images["image"][:rows]})["probabilities"]
            assert (answer.argmax(axis=1) == images["label"][:rows]).mean() > 0.9


def test_a_graph_that_kills_onnx_runtime_is_published_with_the_setting_that_spares_it(source, tmp_path, serving):
    done = run(source(zoo.crashing()), tmp_path / "models" / "lstm")
    assert (done.path.parent / "model.yaml").read_text() == "graph_optimization: layout\n"
    with serving(tmp_path / "models") as server:
        answer = server.client.predict("lstm", {"x": np.zeros((2, 3, 2), np.float16)})
    assert answer["y"].shape == (2, 3, 5)


def test_labels_of_no_output_by_name_are_the_first_ones(source, tmp_path):
    done = run(source(zoo.two_by_two()), tmp_path / "net", labels={"": ["no", "yes"], "q": ["a", "b", "c"]})
    written = {entry.key: entry.value for entry in onnx.load(done.path / "model.onnx").metadata_props}
    assert json.loads(written["labels"]) == {"p": ["no", "yes"], "q": ["a", "b", "c"]}


def test_another_number_of_labels_is_refused(area):
    before = listing(area)
    with pytest.raises(BadRequest, match="--labels probabilities: 2 names for 10 classes"):
        run(DIGITS, area / "models" / "net", labels={"": ["a", "b"]})
    assert listing(area) == before


def test_nothing_is_published_that_was_not_proved(area):
    before = listing(area)
    with pytest.raises(NotProved, match="output probabilities with batch=1: it is off by") as caught:
        run(DIGITS, area / "models" / "net", tolerances={**TOLERANCES, "float32": 0.0})
    assert [row["passes"] for row in caught.value.report["parity"]] == [False] * 4
    assert listing(area) == before


def test_a_version_that_exists_is_refused_before_any_work(area):
    before, stages = listing(area), []
    with pytest.raises(BadRequest, match=r"net/1: this version exists; --replace overwrites it"):
        run(DIGITS, area / "models" / "net" / "1", progress=stages.append)
    assert (listing(area), stages) == (before, [])


def test_a_version_is_replaced_when_asked(area):
    assert run(DIGITS, area / "models" / "net" / "1", replace=True).path == area / "models" / "net" / "1"
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
        done = list(threads.map(lambda _: run(file, area / "models" / "net"), range(3)))
    assert sorted(each.path.name for each in done) == ["2", "3", "4"]
    assert not list(area.rglob(".*"))


def child():
    """The process that converts, among the children of this one."""
    return next(each for each in psutil.Process().children() if "onnxserve_converters.worker" in each.cmdline())


def is_over(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def killing(stage, sig):
    """A progress callback that sends a signal to the child as a stage begins."""

    def tell(begun):
        if begun == stage:
            child().send_signal(sig)

    return tell


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "publish"])
def test_a_child_that_is_killed_leaves_the_repository_as_it_was(stage, area):
    before = listing(area)
    with pytest.raises(
        ExportFailed, match=r"died in the stage '\w+' \(killed by signal 9, SIGKILL, most often for want"
    ):
        run(DIGITS, area / "models" / "net", progress=killing(stage, signal.SIGKILL), **options(stage))
    assert listing(area) == before


def test_a_child_that_is_killed_leaves_no_repository_where_there_was_none(tmp_path):
    with pytest.raises(ExportFailed):
        run(DIGITS, tmp_path / "area" / "models" / "net", progress=killing("prove", signal.SIGKILL))
    assert listing(tmp_path) == {}


def test_a_child_that_crashes_is_reported_with_stage_and_signal(tmp_path):
    with pytest.raises(ExportFailed, match=r"died in the stage 'prove' \(killed by signal 11, SIGSEGV\)"):
        run(DIGITS, tmp_path / "net", progress=killing("prove", signal.SIGSEGV))


class OnlyHere:
    """Pickled by its name, which the child cannot import."""


def test_what_a_child_said_last_is_reported(tmp_path):
    with pytest.raises(
        ExportFailed, match=r"died in the stage 'start' \(exit status 1\): .*(Import|Attribute|NotFound)"
    ):
        run(DIGITS, tmp_path / "net", class_arguments={"it": OnlyHere()})


# It converts, tells the child's id at a stage, and is gone; there must be something to clean up by then.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import psutil
from onnxserve_converters import conversion
from onnxserve_converters.request import Request

source, to, area, stage, options = sys.argv[1:]

def tell(begun):
    if begun == stage:
        (children, hidden) = psutil.Process().children(), list(Path(area).rglob(".onnxserve-*"))
        assert hidden
        print(*(each.pid for each in children), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

conversion.run(Request(source=Path(source), **json.loads(options)), to, progress=tell)
"""


@pytest.mark.parametrize(
    ("stage", "exists"),
    [(stage, False) for stage in STAGES] + [("load", True), ("publish", True)],
    ids=lambda value: value if isinstance(value, str) else ("repository" if value else "no repository"),
)
def test_a_parent_that_is_killed_leaves_the_repository_as_it_was(stage, exists, area):
    to = area / ("models" if exists else "others") / "net"
    before = listing(area)
    arguments = (DIGITS, to, area, stage, json.dumps(options(stage)))
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    until(lambda: listing(area) == before)
    for pid in map(int, ended.stdout.split()):
        until(lambda pid=pid: not psutil.pid_exists(pid) or is_over(psutil.Process(pid)))


def test_a_child_that_takes_too_long_is_ended(area):
    before = listing(area)
    with pytest.raises(ExportFailed, match=r"took longer than 0.2 s, in the stage '\w+'; --timeout allows more"):
        run(DIGITS, area / "models" / "net", limits=Limits(seconds=0.2))
    assert listing(area) == before
    assert not psutil.Process().children()


def test_a_child_that_takes_too_much_memory_is_ended(area):
    before = listing(area)
    with pytest.raises(ExportFailed, match=r"used \d+ MiB of memory, in the stage '\w+'; --memory allows more"):
        run(DIGITS, area / "models" / "net", limits=Limits(memory_bytes=20 << 20))
    assert listing(area) == before
    assert not psutil.Process().children()


def test_a_callback_that_raises_ends_the_conversion(area):
    before = listing(area)

    def refuse(stage):
        raise KeyError(stage)

    with pytest.raises(KeyError, match="load"):
        run(DIGITS, area / "models" / "net", progress=refuse)
    assert listing(area) == before
    assert not psutil.Process().children()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"source.onnx: there is no such file"),
        (b"", r"source.onnx: it is empty"),
        (b"nothing of the kind", r"source.onnx: it .* ONNX"),
    ],
    ids=["absent", "empty", "text"],
)
def test_a_source_that_is_none_is_refused(content, says, tmp_path):
    if content is not None:
        (tmp_path / "source.onnx").write_bytes(content)
    with pytest.raises(BadRequest, match=says):
        run(tmp_path / "source.onnx", tmp_path / "models" / "net")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("to", ["{area}/models/net/1/model.onnx/net", "/proc/models/net"])
def test_a_target_that_cannot_be_written_to_is_refused_before_any_work(to, area):
    stages = []
    with pytest.raises(BadRequest, match=r"it cannot be written to|it is no folder"):
        run(DIGITS, to.format(area=area), progress=stages.append)
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
