"""The load of streams: calls of Stream at a time, each on a connection of its own, all with the same requests.

It comes from this process. What the server sends is kept as it comes, and every single answer is read and compared once
the measurement is over. h2load would only count the bytes that came, which proves nothing: the sizes of good
answers vary with the times in their receipts, and an error is hardly longer.
"""

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from bench import http2
from bench.models import Floats
from bench.process import ServerProcess
from onnxserve import tensor
from onnxserve.v1 import inference_service_pb2 as pb

STREAMS = 8  # as many connections as h2load makes for 64 callers

_METHOD = "/onnxserve.v1.InferenceService/Stream"
_LENGTH = struct.Struct(">BI")  # before each message: whether it is compressed, and its bytes

Requests = Callable[[int], Sequence[pb.StreamRequest]]
"""Makes the first so many requests of a stream."""

Expected = Callable[[int], Floats]
"""Tells what is right: one row for each of the first so many answers."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One measurement."""

    rps: float
    cpu_us: float  # of the server, for each request


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What the streams send, and what is to come back."""

    requests: Requests
    expected: Expected
    round: int = 1  # a stream sends a multiple of so many


def prepare(process: ServerProcess, traffic: Traffic, seconds: float) -> int:
    """Return how many requests each stream has to send for a measurement of about so long.

    Raises:
        grpc.RpcError: the call failed.
        RuntimeError, AssertionError: as send().
    """
    _verify(process.address, traffic)
    count = 16 * traffic.round
    for wanted_s in (0.1, 0.5, seconds):  # the first ones also warm up
        rate = send(process, traffic, count).rps
        count = max(1, round(rate * wanted_s / STREAMS / traffic.round)) * traffic.round
    return count


def send(process: ServerProcess, traffic: Traffic, count: int) -> Rate:
    """Have each of STREAMS calls send `count` requests and read their answers.

    Raises:
        RuntimeError: a request was answered with an error, or not at all.
        AssertionError: an answer is not what is expected, to 1e-4.
    """
    messages, expected = b"".join(map(_framed, traffic.requests(count))), traffic.expected(count)
    before, began = process.cpu_seconds(), time.perf_counter()
    came = http2.make_calls(process.address, _METHOD, messages, STREAMS)
    seconds, cpu_s = time.perf_counter() - began, process.cpu_seconds() - before
    for data in came:
        _check([pb.StreamResponse.FromString(message) for message in _unframed(data)], expected)
    total = STREAMS * count
    return Rate(rps=total / seconds, cpu_us=cpu_s * 1e6 / total)


def _verify(address: str, traffic: Traffic) -> None:
    """Make one short call by gRPC itself, whose error says in words what is wrong."""
    requests = traffic.requests(2 * traffic.round)
    with grpc.insecure_channel(address) as channel:
        stream = channel.stream_stream(_METHOD, pb.StreamRequest.SerializeToString, pb.StreamResponse.FromString)
        _check(list(stream(iter(requests), timeout=60)), traffic.expected(len(requests)))


def _check(answers: Sequence[pb.StreamResponse], expected: Floats) -> None:
    for answer in answers:
        if answer.WhichOneof("outcome") != "response":
            raise RuntimeError(f"a request of a stream was answered with {answer}")
    if len(answers) != len(expected):
        raise RuntimeError(f"a stream of {len(expected)} requests ended after {len(answers)} answers")
    rows = np.concatenate([tensor.decode(answer.response.outputs[0]) for answer in answers])
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-4)


def _framed(request: pb.StreamRequest) -> bytes:
    message = request.SerializeToString()
    return _LENGTH.pack(0, len(message)) + message


def _unframed(data: bytes) -> Iterator[bytes]:
    end = 0
    while end < len(data):
        _, length = _LENGTH.unpack_from(data, end)
        begin, end = end + _LENGTH.size, end + _LENGTH.size + length
        yield data[begin:end]
