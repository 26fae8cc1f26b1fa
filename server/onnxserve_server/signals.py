"""SIGTERM and SIGINT set an event, whichever thread they reach; before the server serves they end the process."""

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from onnxserve_server.telemetry import logs

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LEFT_BEHIND = 1  # exit status


@contextlib.contextmanager
def set_on_signal(stop: threading.Event, is_serving: Callable[[], bool], within: float = math.inf) -> Iterator[None]:
    """Set `stop` on the first SIGTERM or SIGINT; a SIGINT after that ends the process. Enter it in the main thread.

    When the block ends, the handlers of before are set again. If it has not ended `within` seconds after the signal,
    the process ends with exit status 1: a run that ONNX Runtime cannot stop must not hold it for ever.

    While `is_serving` is false the first signal ends the process with exit status 128 plus its number, as shells do:
    nobody has called yet, and the model that is being loaded may take minutes.

    A handler in Python runs in the main thread alone, which must wake up for it. The system may give a signal to any
    thread, and does so under load: the main thread, waiting for a lock, then never runs it. The byte that the
    interpreter writes to the wake-up descriptor, from any thread, wakes a thread that waits for nothing else.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    woken_before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _let_the_next_interrupt_end_the_process) for number in _SIGNALS}
    threading.Thread(
        target=_wait, args=(receiver, stop, is_serving, within), name="onnxserve-signals", daemon=True
    ).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        sender.close()


def _wait(receiver: socket.socket, stop: threading.Event, is_serving: Callable[[], bool], within: float) -> None:
    first = receiver.recv(1)
    if not first:  # no signal came
        return
    number = first[0]
    if not is_serving():
        logger.info("stopped by %s before the models were loaded", signal.Signals(number).name)
        logs.flush()
        os._exit(128 + number)  # an exception would reach the main thread when the model is loaded
    stop.set()  # wakes the main thread, which then runs the handler
    end = time.monotonic() + min(within, threading.TIMEOUT_MAX)
    try:
        receiver.settimeout(max(0.001, end - time.monotonic()))
        while receiver.recv(64):
            receiver.settimeout(max(0.001, end - time.monotonic()))
    except TimeoutError:
        logger.error("the stop was not over %.0f s after the signal: something is left behind", within)
        logs.flush()
        os._exit(_LEFT_BEHIND)


def _let_the_next_interrupt_end_the_process(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C twice does not wait for the drain
