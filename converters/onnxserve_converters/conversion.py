"""Convert a model: a worker process does the work, this one supervises it and publishes the result."""

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

from onnxserve_converters import worker
from onnxserve_converters.errors import ExportFailed
from onnxserve_converters.publishing import check_target, parse_target, publish, staging
from onnxserve_converters.request import Request

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins; STAGES has them in order."""

STAGES = ("load", "reference", "export", "check", "prove", "optimize", "quantize", "float16", "measure", "publish")
"""All stages; those of steps that were not requested are left out."""

_FIRST_STAGE = "start"  # the stage before the worker's first event
_POLL_SECONDS = 0.1  # between two checks of the worker's time and memory
_MAX_LOG_LINES = 3


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A published version.

    Attributes:
        path: its directory, REPOSITORY/NAME/VERSION.
        report: the content of report.json.
    """

    path: Path
    report: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one conversion: `seconds`, and `memory_bytes` of resident memory (None: no limit)."""

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
    """Convert as requested and publish the result.

    Raises:
        BadRequest: the request cannot be fulfilled.
        ExportFailed: the exporter failed, or the worker process died or exceeded a limit.
        NotProved: the ONNX file does not match the model.
    """
    target = parse_target(to)
    check_target(target, replace)
    with staging(target) as work:
        result = _convert(request, work, limits or Limits(), progress)
        progress("publish")
        path = publish(work / "version", target, result["config"], replace)
    return Conversion(path=path, report=result["report"])


def _convert(request: Request, work: Path, limits: Limits, progress: Progress) -> dict[str, Any]:
    stage = _FIRST_STAGE
    with tempfile.TemporaryFile("w+", errors="replace") as log, _worker(request, work, log) as (process, events):
        for event in _events(process, events, limits):
            if "stage" in event:
                stage = event["stage"]
                progress(stage)
            elif "error" in event:
                raise worker.restore(event["error"])
            else:
                result: dict[str, Any] = event["result"]
                return result
        status = process.wait()
        log.seek(0)
        output = " | ".join(line.strip() for line in log.readlines()[-_MAX_LOG_LINES:])
        raise ExportFailed(
            f"the conversion process died in stage {stage!r} ({_exit_reason(status)}): {output or 'no output'}"
        )


@contextlib.contextmanager
def _worker(request: Request, work: Path, log: IO[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = os.pipe()
    process = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", worker.__name__],  # -P: no imports from the working directory
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=(theirs,),
        env=os.environ | {worker.EVENTS: str(theirs)},
        start_new_session=True,  # so that its own children end with it, and Ctrl-C reaches this process alone
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
    """Yield the worker's events until it ends or exceeds a limit."""
    end, unread, stage = time.monotonic() + limits.seconds, b"", _FIRST_STAGE
    while True:
        ended = process.poll() is not None  # before the read, so that its last events are not missed
        if select.select([descriptor], [], [], _POLL_SECONDS)[0]:
            if not (read := os.read(descriptor, 1 << 16)):
                return
            *lines, unread = (unread + read).split(b"\n")
            for event in map(json.loads, lines):
                stage = event.get("stage", stage)
                yield event
        elif ended:  # with the pipe still open in a process that it left behind
            return
        elif time.monotonic() > end:
            raise ExportFailed(
                f"the conversion took longer than {limits.seconds:g} s, in stage {stage!r}; allow more with --timeout"
            )
        elif limits.memory_bytes is not None and (used := _resident_bytes(process.pid)) > limits.memory_bytes:
            raise ExportFailed(
                f"the conversion used {used >> 20} MiB of memory, in stage {stage!r}; allow more with --memory"
            )


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _exit_reason(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    hint = ", usually for lack of memory" if -status == signal.SIGKILL else ""
    return f"killed by signal {-status}, {signal.Signals(-status).name}{hint}"
