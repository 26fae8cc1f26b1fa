"""Try a model before it serves: does it load, and do rows that run together give the same outputs as each row alone?

This module runs in a child process (see prober.py), because a bad graph can crash the process that loads it
(onnxruntime 1.31.1 crashes on a float16 LSTM). A model is tried because a declared batch axis proves nothing: exported
graphs freeze sizes inside.

    python -m onnxserve_server.runtime.probe PARENT      reads requests from stdin and replies, one line of JSON each

PARENT is a process id: the child ends with that process.
"""

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxserve_server.errors import ConfigurationError
from onnxserve_server.runtime.axes import BatchAxes
from onnxserve_server.runtime.row_check import examine
from onnxserve_server.runtime.session import Session, SessionOptions

_PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h


def _reply(line: str) -> dict[str, Any]:
    request = json.loads(line)
    options = request["options"] | {"axes": BatchAxes(**request["options"]["axes"])}
    try:
        verdict = examine(Session(Path(request["path"]), SessionOptions(**options)))
    except ConfigurationError as error:
        return {"error": str(error)}
    return asdict(verdict)


def _main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a model that hangs must not outlive the server
    if os.getppid() != int(sys.argv[1]):  # nor if that ended before this line
        return
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ONNX Runtime prints some warnings to stdout
    for line in sys.stdin:
        replies.write(json.dumps(_reply(line)) + "\n")
        replies.flush()


if __name__ == "__main__":
    _main()
