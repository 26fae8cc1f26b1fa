"""What the server does to its process's signals, and that it undoes it."""

import signal
import subprocess
import sys
import threading

import pytest

from onnxserve_server.signals import set_on_signal

WATCHED = (signal.SIGTERM, signal.SIGINT)


def as_they_are():
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor, [signal.getsignal(number) for number in WATCHED], threading.active_count()


def test_afterwards_signals_do_what_they_did_before():
    before = as_they_are()
    with pytest.raises(RuntimeError, match="start"), set_on_signal(threading.Event(), lambda: False):
        inside = as_they_are()
        [thread] = [thread for thread in threading.enumerate() if thread.name == "onnxserve-signals"]
        raise RuntimeError("the start failed")
    thread.join(10)
    assert as_they_are() == before
    assert inside[0] != before[0]
    assert inside[1] != before[1]


def test_a_signal_stops_what_serves():
    stop = threading.Event()
    with set_on_signal(stop, lambda: True):
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(10)


STUCK = """
import logging, signal, sys, threading
from onnxserve_server.signals import set_on_signal
logging.basicConfig()
stop = threading.Event()
with set_on_signal(stop, lambda: True, 0.2):
    signal.raise_signal(signal.SIGTERM)
    assert stop.wait(10)
    print("stopping", flush=True)
    threading.Event().wait()
"""


def test_a_stop_that_does_not_end_is_ended():
    done = subprocess.run([sys.executable, "-c", STUCK], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "stopping\n")
    assert "something is left behind" in done.stderr
