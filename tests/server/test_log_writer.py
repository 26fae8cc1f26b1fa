"""The log goes out by a thread of its own: whoever logs never waits, whatever becomes of the lines."""

import contextlib
import fcntl
import io
import logging
import os
import threading
from pathlib import Path

import pytest

from onnxserve_server.telemetry.log_writer import LogWriter, write_line
from support.waiting import until

PIPE_BYTES = 4096


@pytest.fixture
def pipe():
    """A pipe of 4 kB that nobody reads: its reading end as a file, and what is written to."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as writer:
        yield reader, writer


def record(text):
    return logging.LogRecord("a", logging.INFO, "f", 1, text, None, None)


def test_who_logs_never_waits_and_what_was_dropped_is_counted(pipe):
    reader, stream = pipe
    writer = LogWriter(stream, max_lines=10)
    sent = 200
    for i in range(sent):  # 100 bytes each
        writer.handle(record(f"{i:0>99}"))
    writer.flush()  # gives up after a second
    read = [reader.readline() for _ in range(11)]
    until(lambda: not writer._lines or read.append(reader.readline()), every=0)
    writer.handle(record("it goes on"))
    while not read[-1].startswith("it goes on"):
        read.append(reader.readline())
    notes = [line for line in read if "lines of the log were dropped" in line]
    lost = sum(int(note.split()[0]) for note in notes)
    assert lost > 0
    assert len(read) - len(notes) - 1 + lost == sent


def test_long_lines_are_bounded_by_what_they_have_together(pipe):
    _, stream = pipe
    writer = LogWriter(stream, max_waiting=1 << 20)
    writer.handle(record("x" * 100_000))
    until(lambda: not writer._lines)  # it is being written: nothing makes room for the others
    for _ in range(99):
        writer.handle(record("x" * 100_000))
    assert {len(line) for line in writer._lines} == {1 << 16}
    assert 15 <= len(writer._lines) <= 16
    assert writer._dropped >= 83


def test_lines_come_in_order_and_a_flush_waits_for_them():
    stream = io.StringIO()
    writer = LogWriter(stream)
    for i in range(100):
        writer.handle(record(str(i)))
    writer.flush()
    assert stream.getvalue().splitlines() == [str(i) for i in range(100)]


def test_a_full_device_takes_nothing_and_stops_nothing():
    with Path("/dev/full").open("w") as full, contextlib.suppress(OSError):
        assert not write_line(full, "a line")
        writer = LogWriter(full)
        for _ in range(3):
            writer.handle(record("a line"))
        writer.flush()
        writer._stream = back = io.StringIO()
        writer.handle(record("room again"))
        writer.flush()
    first, second = back.getvalue().splitlines()
    assert first.startswith("3 lines of the log were dropped")
    assert second == "room again"


def test_a_closed_stream_takes_nothing():
    writer = LogWriter(None)
    writer.handle(record("a line"))
    writer.flush()
    assert not write_line(None, "a line")


def test_a_record_whose_arguments_do_not_fit_is_a_line_too():
    stream = io.StringIO()
    writer = LogWriter(stream)
    writer.handle(logging.LogRecord("a", logging.INFO, "f", 1, "%d", ("x",), None))
    writer.flush()
    assert stream.getvalue().startswith("a record of a cannot be formatted: ")


def test_threads_that_log_do_not_wait_for_the_one_that_writes(pipe):
    _, stream = pipe
    writer = LogWriter(stream, max_lines=1000)
    threads = [
        threading.Thread(target=lambda: [writer.handle(record("x" * 99)) for _ in range(1000)], daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
