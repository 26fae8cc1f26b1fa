"""SIGTERM and SIGINT set an event, whichever thread they reach."""

import signal
import socket
import threading

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def set_on_signal(stop: threading.Event) -> None:
    """Set `stop` on the first SIGTERM or SIGINT; a SIGINT after that ends the process. Call it in the main thread.

    A handler in Python runs in the main thread alone, which must wake up for it. The system may give a signal to any
    thread, and does so under load: the main thread, waiting for a lock, then never learns of it. The byte that the
    interpreter writes to the wake-up descriptor, in whichever thread, wakes a thread that waits for nothing else.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _let_the_next_interrupt_end_the_process)
    threading.Thread(target=_wait, args=(receiver, sender, stop), name="onnxserve-signals", daemon=True).start()


def _wait(receiver: socket.socket, _sender: socket.socket, stop: threading.Event) -> None:
    receiver.recv(1)
    stop.set()  # wakes the main thread, which then runs the handler
    while receiver.recv(64):
        pass


def _let_the_next_interrupt_end_the_process(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C twice does not wait for the drain
