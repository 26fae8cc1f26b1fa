"""Processes that fork while calls are in flight: the parent goes on, and a child that uses its client is told."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import onnxserve

X = {"x": np.ones((1, 2), np.float32)}
SERVER = """
import sys, time
from onnxserve import testing

def slowly(inputs):
    time.sleep(0.01)
    return {"y": inputs["x"]}

with testing.serve({"m": testing.Model(sequence=lambda: slowly)}) as server:
    print(server.target, flush=True)
    sys.stdin.read()
"""
MAX_SECONDS = 60  # then a child that hangs is ended, and its exit status says so


@pytest.fixture
def target():
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield server.stdout.readline().strip()
        server.stdin.close()


@pytest.fixture
def busy(target):
    """A client with calls and a stream in flight, and how often it is answered."""
    stop, answers = threading.Event(), []
    with onnxserve.Client(target) as client:

        def call():
            while not stop.is_set():
                answers.append(client.predict("m", X))

        def stream():
            answers.extend(client.stream("m", iter(lambda: None if stop.is_set() else X, None)))

        threads = [threading.Thread(target=work) for work in [call] * 6 + [stream]]
        for thread in threads:
            thread.start()
        try:
            yield client, answers
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)


def uses(client, sequence, answers):
    """Every way to use a client."""
    return [
        lambda: client.predict("m", X),
        lambda: client.stream("m", [X]),
        lambda: client.sequence("m"),
        lambda: sequence.step(X),
        lambda: next(sequence.generate(X, max_steps=2)),
        lambda: next(answers),
        lambda: next(client.generate("m", X, max_steps=2)),
        client.models,
        client.ready,
    ]


def in_child(work):
    """Run a function in a fork; return its exit status: 0 if it has returned."""
    pid = os.fork()
    if not pid:
        signal.alarm(MAX_SECONDS)
        try:
            work()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_that_uses_its_parents_client_is_told_at_once_and_the_parent_goes_on(busy):
    client, answers = busy

    def check():
        for use in uses(client, sequence, streamed):
            with pytest.raises(RuntimeError, match=r"before the process forked.*make a client in the child.*'spawn'"):
                use()
        sequence.close()
        client.close()

    with client.sequence("m") as sequence:
        sequence.step(X)
        streamed = client.stream("m", [X] * 3)
        next(streamed)
        for _ in range(10):
            assert in_child(check) == 0
        sequence.step(X)
        assert len([*streamed]) == 2
    before = len(answers)
    assert client.predict("m", X)["y"].tolist() == [[1, 1]]
    assert len(answers) >= before


def _predict(client):
    try:
        client.predict("m", X)
    except RuntimeError as error:
        return str(error)


def test_multiprocessing_by_fork_tells_its_children(busy):
    client, _ = busy
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    children = [context.Process(target=lambda: results.put(_predict(client))) for _ in range(3)]
    for child in children:
        child.start()
    assert all("before the process forked" in results.get() for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
