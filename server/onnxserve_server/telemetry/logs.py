"""The server's log: lines for people, or JSON for programs. It never tells what callers sent.

Whoever logs about one request names it by `extra`: {"request_id": ..., "trace_id": ...}. Of an exception the place and
the class are logged but not the text, which may quote a caller's data.
"""

import json
import logging
import re
import threading
import time
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "suppressed"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # else a caller's request_id could forge a line
_MINUTE = 60.0
_MOST_A_MINUTE = 10  # warnings and errors of one place in the code
_FOREIGN = {"opentelemetry": 1}  # libraries that tell of each attempt


def configure(level: str, style: Literal["console", "json"]) -> None:
    """Send the log of the whole process to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if style == "json" else Console())
    handler.addFilter(RateLimit())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record says beside its message: what came by `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and value not in ("", None)}


def message_of(record: logging.LogRecord) -> str:
    """Return the message of a record, and of an exception its class and place."""
    message = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        frames = traceback.extract_tb(record.exc_info[2])
        places = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames))
        message += f": {record.exc_info[0].__name__} in {places}"
    suppressed = getattr(record, "suppressed", 0)
    return f"{message} (and {suppressed} more like it since)" if suppressed else message


class Console(logging.Formatter):
    """A line a record: time, level, logger, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        told = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {message_of(record)}{told}"
        return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], line)


class Json(logging.Formatter):
    """A JSON object a record, on one line: time (RFC 3339, UTC), level, logger, message, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
        }
        return json.dumps(told | fields_of(record), default=str)


class RateLimit(logging.Filter):
    """Lets so many warnings of one place in the code pass in a minute; the next one tells how many did not."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[tuple[str, int], list[float]] = {}  # when the minute began, passed, suppressed

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        library = record.name.partition(".")[0]
        if record.levelno < logging.WARNING:
            return True
        place = (library, 0) if library in _FOREIGN else (record.pathname, record.lineno)
        most, now = _FOREIGN.get(library, _MOST_A_MINUTE), self._clock()
        with self._lock:
            state = self._places.setdefault(place, [now, 0, 0])
            if now - state[0] >= _MINUTE:
                record.suppressed = int(state[2])
                state[:] = [now, 0, 0]
            if state[1] >= most:
                state[2] += 1
                return False
            state[1] += 1
        return True
