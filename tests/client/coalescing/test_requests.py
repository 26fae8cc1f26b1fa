"""Requests that a server might refuse."""

import numpy as np
import pytest

from onnxserve.tensor import STRING
from support.coalescing import BOOL, FLOAT, FOR_EVER, busy, description, spec, start_waiting, values
from support.waiting import until


@pytest.mark.parametrize(
    "x",
    [np.array([["a", 1]], dtype=object), np.array([["a", "\ud800"]], dtype=object)],
    ids=["a number", "half a surrogate"],
)
def test_an_array_that_holds_no_text_fails_alone(server, calls, x):
    server.model = description([spec("x", "batch", 2, dtype=STRING)], [spec("y", "batch", 2, dtype=STRING)])
    calls = calls()
    good = np.array([["a", "été"]])
    with busy(server, calls, good):
        together = start_waiting(calls, good, np.array([[b"b", b"c"]]))
        bad = calls.start(x)
        with pytest.raises((TypeError, UnicodeEncodeError)):
            bad.result(FOR_EVER)
    assert values(together) == [[["aa", "étéété"]], [["bb", "cc"]]]
    assert server.rows == [2]


@pytest.mark.parametrize(
    ("dtype", "x"),
    [
        (FLOAT, np.array(1.0, np.float32)),
        (FLOAT, np.ones((1, 3), np.float32)),
        (FLOAT, np.ones((1, 2, 1), np.float32)),
        (FLOAT, np.ones((1, 2), np.float64)),
        (FLOAT, np.ones((1, 2), ">f4")),
        (STRING, np.array([[b"\xff", b"a"]], dtype=object)),
        (BOOL, np.array([[1, 2]], np.uint8).view(bool)),
    ],
    ids=["scalar", "another row", "another rank", "another type", "big-endian", "no UTF-8", "no bool"],
)
def test_a_request_that_a_server_might_refuse_goes_alone(server, calls, dtype, x):
    server.model = description([spec("x", "batch", 2, dtype=dtype)], [spec("y", "batch", 2, dtype=dtype)])
    calls = calls()
    server.open.clear()
    out = [calls.start(x) for _ in range(8)]
    until(lambda: len(server.requests) == 8)
    server.open.set()
    for call in out:
        call.exception(FOR_EVER)  # this server knows no bounds, but it cannot read text that is none
