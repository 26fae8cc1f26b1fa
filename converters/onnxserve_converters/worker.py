"""The worker process of one conversion: it loads, exports, compares and writes. If it dies, nothing is published.

Started by conversion.py. It reads the pickled request from stdin and writes its events as JSON lines to the descriptor
EVENTS; stdout, where frameworks print, is redirected to stderr.
"""

import ctypes
import json
import logging
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxserve_converters.errors import BadRequest, ConverterError, ExportFailed, NotProved

EVENTS = "ONNXSERVE_CONVERTER_EVENTS"
"""Environment variable: the number of the descriptor that events are written to."""

_PR_SET_PDEATHSIG = 1  # Linux, sys/prctl.h


class Events:
    """Sends events to the parent process: one JSON object a line, with one key."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._file = os.fdopen(descriptor, "w")

    def send(self, **event: Any) -> None:
        """Send one event at once."""
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()


def main() -> None:
    """Run the conversion whose request is on stdin."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # so that it never outlives its parent
    events = Events(int(os.environ.pop(EVENTS)))
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    parent, work, search_path, request = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    if os.getppid() != parent:  # it died before the call of prctl()
        return
    sys.path[:] = search_path
    os.environ["TMPDIR"] = work  # so that the files that frameworks leave there are removed too
    try:
        from onnxserve_converters.pipeline import run

        events.send(result=run(request, Path(work), lambda stage: events.send(stage=stage)))
    except ConverterError as error:
        events.send(error=describe(error))
    except MemoryError:
        events.send(error=describe(ExportFailed("the conversion ran out of memory; run it on a machine with more")))


def describe(error: ConverterError) -> dict[str, Any]:
    """Return an error as a JSON object."""
    fields: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    return fields | ({"report": error.report} if isinstance(error, NotProved) else {})


def restore(fields: Mapping[str, Any]) -> ConverterError:
    """Return the error that describe() described."""
    if fields["kind"] == NotProved.__name__:
        return NotProved(fields["message"], fields["report"])
    kinds: tuple[type[ConverterError], ...] = (BadRequest, ExportFailed)
    return next(kind for kind in kinds if kind.__name__ == fields["kind"])(fields["message"])


if __name__ == "__main__":
    main()
