"""Lines go out to streams that may be full, closed, or a pipe that nobody reads, and none of that may stop a server."""

import logging
import os
import sys
import threading
import time
from collections import deque
from typing import TextIO

_MAX_LINES = 10_000  # that wait to be written; further ones are dropped
_MAX_LINE = 64 << 10  # characters
_MAX_WAITING = 4 << 20  # characters of all lines that wait, of up to four bytes each
_FLUSH_TIMEOUT = 1.0  # seconds for the last lines


class LogWriter(logging.Handler):
    """Writes records from a thread of its own, so that no thread that logs waits for whoever reads.

    Lines that find the queue full, or that the stream does not take, are dropped. How many they were is said in a line
    of its own before the next one that is written.

    Args:
        stream: sys.stderr in production; None, as Python has it where it is closed, takes nothing.
        max_lines: how many lines may wait.
        max_waiting: how many characters they may have together.
    """

    def __init__(self, stream: TextIO | None, max_lines: int = _MAX_LINES, max_waiting: int = _MAX_WAITING) -> None:
        super().__init__()
        self._stream = stream
        self._max_lines = max_lines
        self._max_waiting = max_waiting
        self._lines: deque[str] = deque()
        self._waiting = 0  # characters of them
        self._dropped = 0
        self._changed = threading.Condition()
        self._is_writing = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler: queue the record's line."""
        try:
            line = self.format(record)[:_MAX_LINE]
        except Exception as error:  # a record whose arguments do not fit its message
            line = f"a record of {record.name} cannot be formatted: {error}"
        with self._changed:
            if len(self._lines) >= self._max_lines or self._waiting + len(line) > self._max_waiting:
                self._dropped += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="onnxserve-log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """See logging.Handler: wait until all is written, for a second at most."""
        end = time.monotonic() + _FLUSH_TIMEOUT
        with self._changed:
            while self._lines or self._is_writing:
                if not self._changed.wait(end - time.monotonic()):
                    return

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                self._is_writing = True
                line, dropped = self._lines.popleft(), self._dropped
                self._waiting -= len(line)
                self._dropped = 0
            if dropped:
                line = f"{self.format(_note_of(dropped))}\n{line}"
            if not write_line(self._stream, line):
                with self._changed:
                    self._dropped += dropped + 1


def write_line(stream: TextIO | None, line: str) -> bool:
    """Write a line to a stream at once, past its buffers; return whether it was taken."""
    if stream is None:
        return False
    try:
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):  # a stream in memory
            stream.write(line + "\n")
            stream.flush()
            return True
        data = (line + "\n").encode(errors="backslashreplace")
        while data:
            data = data[os.write(descriptor, data) :]
    except (OSError, ValueError):  # a full device, a pipe that is closed
        return False
    return True


def say(line: str, *, error: bool = False) -> None:
    """Print a line to stdout, or stderr, that its reader may take up to a second to read; then it goes unsaid."""
    stream = sys.stderr if error else sys.stdout
    printing = threading.Thread(target=write_line, args=(stream, line), name="onnxserve-say", daemon=True)
    printing.start()
    printing.join(_FLUSH_TIMEOUT)


def _note_of(dropped: int) -> logging.LogRecord:
    message = "%d lines of the log were dropped: whoever reads it is too slow, or what it is written to is full"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (dropped,), None)
