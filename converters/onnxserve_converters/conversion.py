"""Convert a model: one child process does the work, this one watches it and publishes."""

import contextlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from onnxserve_converters import child
from onnxserve_converters.errors import ExportFailed
from onnxserve_converters.publishing import check_target, parse_target, publish, staging
from onnxserve_converters.request import Request

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins; STAGES has them in order."""

STAGES = ("load", "reference", "export", "check", "prove", "optimize", "quantize", "float16", "measure", "publish")
"""Every stage there can be; those of what was not asked for are left out."""

_FIRST = "start"  # the stage before the child tells of any
_LOOK = 0.1  # seconds between two looks at the child's memory
_LOG_LINES = 3


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A published version.

    Attributes:
        path: its folder, REPOSITORY/NAME/VERSION.
        report: what report.json says.
    """

    path: Path
    report: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one conversion may use: `seconds`, and `memory_bytes` of resident memory (None: the machine's)."""

    seconds: float = 1800.0
    memory_bytes: int | None = None


def run(
    request: Request,
    to: str | Path,
    *,
    replace: bool = False,
    limits: Limits | None = None,
    progress: Progress = lambda _: None,
) -> Conversion:
    """Convert as the request says and publish the result.

    Raises:
        BadRequest: it cannot be done as asked.
        ExportFailed: the exporter failed, or the child process died or went past its limits.
        NotProved: the ONNX file does not do what the model does.
    """
    target = parse_target(to)
    check_target(target, replace)
    with staging(target) as work:
        told = _convert(request, work, limits or Limits(), progress)
        progress("publish")
        path = publish(work / "version", target, told["config"], replace)
    return Conversion(path=path, report=told["report"])


def _convert(request: Request, work: Path, limits: Limits, progress: Progress) -> dict[str, Any]:
    stage = _FIRST
    with tempfile.TemporaryFile("w+", errors="replace") as log, _child(request, work, log) as (process, events):
        for event in _events(process, events, limits):
            if "stage" in event:
                stage = event["stage"]
                progress(stage)
            elif "error" in event:
                raise child.restore(event["error"])
            else:
                result: dict[str, Any] = event["result"]
                return result
        status = process.wait()
        log.seek(0)
        said = " | ".join(line.strip() for line in log.readlines()[-_LOG_LINES:])
        raise ExportFailed(f"the conversion died in the stage {stage!r} ({_how(status)}): {said or 'it said nothing'}")


@contextlib.contextmanager
def _child(request: Request, work: Path, log: IO[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = os.pipe()
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", child.__name__],  # -P: what lies in the working directory is not to be imported
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=(theirs,),
        env=os.environ | {child.EVENTS: str(theirs)},
        start_new_session=True,  # so that it ends with its own children, and a Ctrl-C is ours to handle
    )
    os.close(theirs)
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(pickle.dumps((os.getpid(), str(work), sys.path, request)))
        yield process, ours
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


def _events(process: subprocess.Popen[bytes], descriptor: int, limits: Limits) -> Iterator[dict[str, Any]]:
    """Give what the child tells, until it ends."""
    end, unread, stage = time.monotonic() + limits.seconds, b"", _FIRST
    while True:
        ended = process.poll() is not None  # asked before the look, so that its last words are not missed
        if select.select([descriptor], [], [], _LOOK)[0]:
            if not (read := os.read(descriptor, 1 << 16)):
                return
            *lines, unread = (unread + read).split(b"\n")
            for event in map(json.loads, lines):
                stage = event.get("stage", stage)
                yield event
        elif ended:  # without closing the pipe: a process that it has left behind has it too
            return
        elif time.monotonic() > end:
            raise ExportFailed(
                f"the conversion took longer than {limits.seconds:g} s, in the stage {stage!r}; --timeout allows more"
            )
        elif limits.memory_bytes is not None and (used := _resident_bytes(process.pid)) > limits.memory_bytes:
            raise ExportFailed(
                f"the conversion used {used >> 20} MiB of memory, in the stage {stage!r}; --memory allows more"
            )


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    hint = ", most often for want of memory" if -status == signal.SIGKILL else ""
    return f"killed by signal {-status}, {signal.Signals(-status).name}{hint}"
