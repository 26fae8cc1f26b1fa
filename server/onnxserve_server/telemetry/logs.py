"""The server's log: lines for people, or JSON for programs. It never contains what callers sent.

A record about one request names it by `extra`: {"request_id": ..., "trace_id": ...}. Of an exception its class and
place are logged but not its text, which may quote a caller's data.
"""

import copy
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from onnxserve_server.telemetry.log_writer import LogWriter

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "suppressed"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # else a caller's request_id could forge a line
_MINUTE = 60.0
_MAX_A_MINUTE = 10  # warnings and errors from one place in the code
_EXPORTERS = "opentelemetry"  # the library logs each attempt to push, from several places
_MAX_OF_EXPORTERS = 1

START_FAILED = {"start": "failed"}
"""The fields of a record that says why a start failed."""


def configure(level: str, style: Literal["console", "json"]) -> None:
    """Send the log of the whole process to stderr."""
    handler = LogWriter(sys.stderr)
    handler.setFormatter(Json() if style == "json" else Console())
    handler.addFilter(RateLimit(handler.handle))
    if style == "console":  # the command itself prints it, on a line without time and level
        handler.addFilter(lambda record: not START_FAILED.items() <= vars(record).items())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def flush() -> None:
    """Log now a line for the records that the log withholds because there were too many, and write what waits."""
    for handler in logging.getLogger().handlers:
        for limit in handler.filters:
            if isinstance(limit, RateLimit):
                limit.flush()
        if isinstance(handler, LogWriter):
            handler.flush()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record, which it was given by `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and value not in ("", None)}


def message_of(record: logging.LogRecord) -> str:
    """Return the message of a record; with an exception, its class and place too."""
    message = _text(record)
    if _is_of_exporters(record):
        message += "; the server goes on, but telemetry that cannot be sent is lost: check --otlp-endpoint"
    suppressed = getattr(record, "suppressed", 0)
    return f"{message} (and {suppressed} more like it since)" if suppressed else message


class Console(logging.Formatter):
    """A line a record: time, level, logger, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {message_of(record)}{fields}"
        return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], line)


class Json(logging.Formatter):
    """A JSON object a record, on one line: time (RFC 3339, UTC), level, logger, message, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
        }
        return json.dumps(fields | fields_of(record), default=str)


@dataclass(slots=True)
class _Origin:
    """Counts of the records of one place in the code, in its current minute."""

    began: float
    passed: int = 0
    withheld: int = 0
    first: logging.LogRecord | None = None  # of those withheld


class RateLimit(logging.Filter):
    """Lets a few warnings a minute pass from each place in the code. One line stands for the others, later.

    Args:
        emit: is given the first record that was withheld, with the number of the others, after a minute at the latest.
        clock: returns the time in seconds.
        minute: how long a minute is, in seconds.
    """

    def __init__(
        self,
        emit: Callable[[logging.LogRecord], object],
        clock: Callable[[], float] = time.monotonic,
        minute: float = _MINUTE,
    ) -> None:
        super().__init__()
        self._emit = emit
        self._clock = clock
        self._minute = minute
        self._lock = threading.Lock()
        self._places: dict[tuple[str, int], _Origin] = {}
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        if record.levelno < logging.WARNING or hasattr(record, "suppressed"):
            return True
        of_exporters, now = _is_of_exporters(record), self._clock()
        name = (_EXPORTERS, 0) if of_exporters else (record.pathname, record.lineno)
        with self._lock:
            place = self._places.setdefault(name, _Origin(now))
            if now - place.began >= self._minute and place.first is None:
                place.began, place.passed = now, 0
            if place.passed < (_MAX_OF_EXPORTERS if of_exporters else _MAX_A_MINUTE):
                place.passed += 1
                return True
            place.withheld += 1
            if place.first is None:
                place.first = _without_frames(record)
            if self._timer is None:
                self._timer = threading.Timer(self._minute, self.flush)
                self._timer.daemon = True
                self._timer.start()
        return False

    def flush(self) -> None:
        """Emit now a record for each place that has withheld some; it counts as one of the next minute."""
        summaries, now = [], self._clock()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for place in self._places.values():
                if place.first is not None:
                    place.first.suppressed = place.withheld - 1
                    summaries.append(place.first)
                    place.began, place.passed, place.withheld, place.first = now, 1, 0, None
        for record in summaries:
            self._emit(record)


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        frames = traceback.extract_tb(record.exc_info[2])
        places = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames))
        text += f": {record.exc_info[0].__name__} in {places}"
    return text


def _is_of_exporters(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == _EXPORTERS


def _without_frames(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy that can be kept: an exception's frames would keep alive what callers sent."""
    kept = copy.copy(record)
    kept.msg, kept.args, kept.exc_info = _text(record), None, None
    return kept
