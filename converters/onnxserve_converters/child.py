"""The process that does one conversion: it loads, exports, proves and writes, and may die of it without harm.

Run by conversion.py. The request comes pickled on stdin, what happens goes as JSON lines to the descriptor EVENTS; what
frameworks print goes to stderr, with stdout.
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
    """Tells the parent what happens: one JSON object a line, with one key."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._file = os.fdopen(descriptor, "w")

    def tell(self, **event: Any) -> None:
        """Send one event at once."""
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()


def main() -> None:
    """Do the conversion that stdin describes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # what the parent waits for is for the parent alone
    events = Events(int(os.environ.pop(EVENTS)))
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    parent, work, search_path, request = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    if os.getppid() != parent:  # it died before prctl() could tell the kernel
        return
    sys.path[:] = search_path
    os.environ["TMPDIR"] = work  # so that what frameworks leave there goes too
    try:
        from onnxserve_converters.pipeline import run

        events.tell(result=run(request, Path(work), lambda stage: events.tell(stage=stage)))
    except ConverterError as error:
        events.tell(error=describe(error))
    except MemoryError:
        events.tell(error=describe(ExportFailed("there was not enough memory for the conversion")))


def describe(error: ConverterError) -> dict[str, Any]:
    """Return an error as JSON can carry it."""
    told: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    return told | ({"report": error.report} if isinstance(error, NotProved) else {})


def restore(told: Mapping[str, Any]) -> ConverterError:
    """Return the error that describe() described."""
    if told["kind"] == NotProved.__name__:
        return NotProved(told["message"], told["report"])
    kinds: tuple[type[ConverterError], ...] = (BadRequest, ExportFailed)
    return next(kind for kind in kinds if kind.__name__ == told["kind"])(told["message"])


if __name__ == "__main__":
    main()
