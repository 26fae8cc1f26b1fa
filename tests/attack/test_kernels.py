"""Kernels that end the process: the list of them is kept, and no request for any of them ends a server."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from onnxserve import Client, OnnxserveError
from support.asking import Http, port_of
from support.kernel_cases import FATAL, cases
from support.kernels import trials

VERSION = "1.31.1"
OTHER_OPERATORS = {"Loop", "Range"}  # run for as long as the numbers say that they are given

as_listed = pytest.mark.skipif(
    onnxruntime.__version__ != VERSION, reason=f"support/kernel_cases.py lists the faults of onnxruntime {VERSION}"
)


def tried(*arguments):
    """What support.kernels says of each case."""
    ended = subprocess.run(
        [sys.executable, "-m", "support.kernels", *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in ended.stdout.splitlines()]


@as_listed
def test_what_is_listed_as_fatal_still_is(attack):
    outcomes = tried("fatal")
    attack.count("fatal trials", sum(map(len, FATAL.values())))
    mended = {each["case"]: each["refused"] for each in outcomes if not each["deaths"]}
    assert not mended, "no longer fatal: take them out of FATAL, or keep them for older versions"
    assert {each["case"]: list(dict(each["deaths"])) for each in outcomes} == FATAL


@as_listed
@pytest.mark.slow
def test_no_other_operator_ends_the_process(attack):
    outcomes = tried(0, attack.size(60, 1))
    attack.count("operators tried", len({each["operator"] for each in outcomes}))
    attack.count("trials", sum(each["trials"] for each in outcomes))
    listed = {case.operator for case in cases()} | OTHER_OPERATORS
    assert {each["operator"] for each in outcomes if each["deaths"]} <= listed


SAMPLE = ("Mod int32", "length", "transposed convolution")  # of which the short form makes a server


@as_listed
def test_no_request_for_them_ends_a_server(attack, launch):
    chosen = [case for case in cases() if case.name in attack.size(SAMPLE, tuple(FATAL))]
    server = launch({name_of(case): case.model for case in chosen}, "--http-port", 0)
    page = Http(port_of(server.log))
    with Client(server.address, retries=0) as client:
        for case in chosen:
            refused = {what for what, feeds in trials(case.feeds) if is_refused(client, page, name_of(case), feeds)}
            attack.count("requests", 2 * len(list(trials(case.feeds))))
            assert set(FATAL[case.name]) <= refused, f"{case.name}: {server.log.read_text()[-2000:]}"
    assert server.popen.poll() is None


def name_of(case):
    return case.name.replace(" ", "_")


def is_refused(client, page, model, feeds):
    """Send a request by gRPC and as JSON; return whether it is refused as its caller's fault, which both say alike."""
    try:
        client.predict(model, feeds, timeout=60)
        reason = ""
    except OnnxserveError as error:
        reason = error.reason
    status, reply = page.predict({"model": model, "inputs": {name: as_json(array) for name, array in feeds.items()}})
    assert (reply.get("reason", "") if status != 200 else "") == reason, reply
    return reason == "INVALID_REQUEST"


def as_json(array):
    return {"base64": base64.b64encode(array.tobytes()).decode(), "shape": array.shape}
