"""The worker process of a conversion: whatever kills it or its parent, the repository stays as it was."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from onnxserve_converters.conversion import STAGES, Limits
from onnxserve_converters.errors import ExportFailed
from support.converting import convert
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


def worker():
    """The process that converts, a child of this process."""
    return next(each for each in psutil.Process().children() if "onnxserve_converters.worker" in each.cmdline())


def is_over(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def killing(stage, sig):
    """A progress callback that sends a signal to the worker as a stage starts."""

    def send(begun):
        if begun == stage:
            worker().send_signal(sig)

    return send


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "publish"])
def test_a_worker_that_is_killed_leaves_the_repository_as_it_was(stage, area):
    before = listing(area)
    with pytest.raises(
        ExportFailed, match=r"died in stage '\w+' \(killed by signal 9, SIGKILL, usually for lack of memory"
    ):
        convert(DIGITS, area / "models" / "net", progress=killing(stage, signal.SIGKILL), **options(stage))
    assert listing(area) == before


def test_a_worker_that_is_killed_leaves_no_repository_where_there_was_none(tmp_path):
    with pytest.raises(ExportFailed):
        convert(DIGITS, tmp_path / "area" / "models" / "net", progress=killing("prove", signal.SIGKILL))
    assert listing(tmp_path) == {}


def test_a_worker_that_crashes_is_reported_with_stage_and_signal(tmp_path):
    with pytest.raises(ExportFailed, match=r"died in stage 'prove' \(killed by signal 11, SIGSEGV\)"):
        convert(DIGITS, tmp_path / "net", progress=killing("prove", signal.SIGSEGV))


class OnlyHere:
    """Pickled by its name, which the worker cannot import."""


def test_the_last_output_of_a_worker_is_reported(tmp_path):
    with pytest.raises(ExportFailed, match=r"died in stage 'start' \(exit status 1\): .*(Import|Attribute|NotFound)"):
        convert(DIGITS, tmp_path / "net", class_arguments={"it": OnlyHere()})


# Converts, prints the worker's id at a stage, and kills itself; there must be something to clean up by then.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import psutil
from onnxserve_converters import conversion
from onnxserve_converters.request import Request

source, to, area, stage, options = sys.argv[1:]

def kill(begun):
    if begun == stage:
        (children, hidden) = psutil.Process().children(), list(Path(area).rglob(".onnxserve-*"))
        assert hidden
        print(*(each.pid for each in children), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

conversion.run(Request(source=Path(source), **json.loads(options)), to, progress=kill)
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


def test_a_worker_that_takes_too_long_is_ended(area):
    before = listing(area)
    with pytest.raises(ExportFailed, match=r"took longer than 0.2 s, in stage '\w+'; allow more with --timeout"):
        convert(DIGITS, area / "models" / "net", limits=Limits(seconds=0.2))
    assert listing(area) == before
    assert not psutil.Process().children()


def test_a_worker_that_takes_too_much_memory_is_ended(area):
    before = listing(area)
    with pytest.raises(ExportFailed, match=r"used \d+ MiB of memory, in stage '\w+'; allow more with --memory"):
        convert(DIGITS, area / "models" / "net", limits=Limits(memory_bytes=20 << 20))
    assert listing(area) == before
    assert not psutil.Process().children()


def test_a_callback_that_raises_ends_the_conversion(area):
    before = listing(area)

    def refuse(stage):
        raise KeyError(stage)

    with pytest.raises(KeyError, match="load"):
        convert(DIGITS, area / "models" / "net", progress=refuse)
    assert listing(area) == before
    assert not psutil.Process().children()
