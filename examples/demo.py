"""Serve the trained digits model, send it real images from 64 callers at once, and print what came back.

    make demo           or, where the extra cpu is installed: python examples/demo.py
    KEEP=1 make demo    leaves the server running, until Ctrl-C

Exits with a message, and not with 0, when a call failed, the answers are wrong, nothing was batched, or the server did
not stop cleanly.
"""

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import IO

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxserve import Client, OnnxserveError, Receipt

CALLERS = 64
ROUNDS = 10  # over all images, so that the percentiles stand on thousands of requests
START_S = 60.0
STOP_S = 30.0
MIN_ACCURACY = 0.90
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one call brought."""

    correct: bool
    latency_ms: float
    receipt: Receipt


def main() -> None:
    """Start the server, call it, report, check, stop it."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # however this program is ended, the server ends too
    test_set = np.load(HERE / "data/digits_test.npz")
    images, labels = test_set["image"], test_set["label"]
    with running_server(HERE / "models") as (server, address, page):
        answers, seconds = ask_all(address, images, labels)
        Console().print(report(answers, seconds, len(images)))
        check(answers)
        if os.environ.get("KEEP") == "1":
            keep(server, address, page)


@contextmanager
def running_server(models: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Run `onnxserve serve` on free ports; give its process, its address and that of its page once it is ready."""
    where = ["--models", str(models), "--host", "127.0.0.1", "--port", "0", "--http-port", "0"]
    command = [sys.executable, "-m", "onnxserve", "serve", *where]
    with tempfile.TemporaryFile("a+") as log:  # to append: the server writes at the end, wherever we read
        # A session of its own: Ctrl-C reaches this program alone, which then stops the server.
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        try:
            yield server, ready_address(server), page_address(log)
            stop(server)
        except (OnnxserveError, RuntimeError) as error:
            log.seek(0)
            sys.exit(f"{log.read()}\nThe example failed: {error}")
        finally:
            server.kill()  # does nothing to a server that has stopped
            server.wait()


def ready_address(server: subprocess.Popen[str]) -> str:
    """Read the server's output up to the line with its address."""
    assert server.stdout is not None
    overdue = threading.Timer(START_S, server.kill)  # which ends its output, and so the loop
    overdue.start()
    try:
        for line in server.stdout:
            if ready := re.search(r"onnxserve is ready on (\S+)", line):
                return ready[1]
    finally:
        overdue.cancel()
    raise RuntimeError(f"the server ended, or was not ready within {START_S:.0f} s (exit code {server.wait()})")


def page_address(log: IO[str]) -> str:
    """Read the address of the status page from the server's log, where it stands before the server is ready."""
    log.seek(0)
    found = re.search(r"status page on (http://[\w.:\[\]]+)", log.read())
    return found[1] if found else "unknown: the log level hides its address"


def stop(server: subprocess.Popen[str]) -> None:
    """Ask the server to finish its work and stop, as Kubernetes does."""
    server.terminate()
    try:
        code = server.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the server did not stop within {STOP_S:.0f} s of SIGTERM") from None
    if code != 0:
        raise RuntimeError(f"the server ended with exit code {code}")


def ask_all(address: str, images: np.ndarray, labels: np.ndarray) -> tuple[list[Answer], float]:
    """Send every image ROUNDS times, shared out among the callers; return the answers and the seconds it took."""
    rows = np.tile(np.arange(len(images)), ROUNDS)
    start = threading.Barrier(CALLERS + 1)

    def caller(number: int) -> list[Answer]:
        start.wait()
        return [ask(client, images[row, None], labels[row]) for row in rows[number::CALLERS]]

    with Client(address) as client, ThreadPoolExecutor(CALLERS) as threads:
        ask(client, images[:1], labels[0])  # the connection is made before the clock runs
        callers = [threads.submit(caller, number) for number in range(CALLERS)]
        start.wait()
        started = perf_counter()
        answers = [answer for future in callers for answer in future.result()]
        return answers, perf_counter() - started


def ask(client: Client, image: np.ndarray, label: int) -> Answer:
    """Send one image, float32 [1, 3, 32, 32]."""
    started = perf_counter()
    prediction = client.predict("digits", {"image": image}, timeout=30.0)
    latency_ms = 1e3 * (perf_counter() - started)
    correct = bool(prediction["probabilities"].argmax() == label)
    return Answer(correct=correct, latency_ms=latency_ms, receipt=prediction.receipt)


def report(answers: list[Answer], seconds: float, images: int) -> Table:
    """Return the figures as a table."""
    receipts = [answer.receipt for answer in answers]
    p50, p99 = np.percentile([answer.latency_ms for answer in answers], (50, 99))
    rows = [receipt.batch_rows for receipt in receipts]
    share = [1 / receipt.batch_requests for receipt in receipts]  # so that every batch counts once
    queue, wait, compute = np.median([(r.queue_us, r.batch_wait_us, r.compute_us) for r in receipts], axis=0)
    table = Table(title="Handwritten digits, one image a call", show_header=False)
    table.add_row("images", f"{images} held out of training, each sent {ROUNDS} times")
    table.add_row("callers", f"{CALLERS} threads of one Python process, beside the server")
    table.add_row("accuracy", f"{accuracy(answers):.2%}")
    table.add_row("latency", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    table.add_row("throughput", f"{len(answers) / seconds:,.0f} requests/s")
    table.add_row("batch", f"{np.average(rows, weights=share):.1f} rows on average, {max(rows)} at most")
    table.add_row(
        "in the server, median", f"queue {queue:,.0f} µs, batch wait {wait:,.0f} µs, compute {compute:,.0f} µs"
    )
    table.add_row("execution provider", ", ".join(sorted({receipt.provider for receipt in receipts})))
    return table


def check(answers: list[Answer]) -> None:
    """Raise RuntimeError unless the answers are right and callers shared batches."""
    if (reached := accuracy(answers)) < MIN_ACCURACY:
        raise RuntimeError(f"accuracy {reached:.2%} is below {MIN_ACCURACY:.0%}")
    if max(answer.receipt.batch_rows for answer in answers) < 2:
        raise RuntimeError("no batch had more than one row")


def accuracy(answers: list[Answer]) -> float:
    """Return the share of right answers."""
    return sum(answer.correct for answer in answers) / len(answers)


def keep(server: subprocess.Popen[str], address: str, page: str) -> None:
    """Leave the server running until Ctrl-C."""
    print(f"\nThe server goes on at {address}. Its status page: {page}")
    print("Try, from another terminal:\n")
    command = Path(sys.executable).parent / "onnxserve"  # it need not be on the PATH
    image = HERE / "data/digit.npy"
    print(f"  {command} models --target {address}")
    print(f"  {command} predict digits --input image={image} --target {address}")
    print(f"  {command} bench digits --target {address}")
    print(f"  {command} explain digits --input image={image} --mask 0 --target {address}")
    if importlib.util.find_spec("shap") is None:
        print(f"    (which needs more: {how_to_explain()})")
    print("\nCtrl-C stops it.", flush=True)
    try:
        raise RuntimeError(f"the server ended by itself with exit code {server.wait()}")
    except KeyboardInterrupt:
        print()


def how_to_explain() -> str:
    """Return the command that installs what explaining needs."""
    pip, root = Path(sys.executable).parent / "pip", HERE.parent
    return f"{pip} install --constraint {root / 'constraints.txt'} --editable '{root}[explain]'"


if __name__ == "__main__":
    main()
