"""The load: one unary gRPC method called over and over by so many callers.

It comes from h2load, whose own cost is small and the same for every server; without it from threads of this process,
whose cost is not. h2load knows HTTP/2 but no gRPC: it counts an answer that carries a gRPC error as a success. But the
answers of successful calls all open with the same header fields, of which HPACK makes the same few bytes, more for the
first on a connection than for the further ones. An error's answer has its status and message there, so the count of
header bytes that h2load prints shows whether any call failed.
"""

import functools
import re
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from bench.models import Floats

HOW_TO_GET_H2LOAD = "h2load is missing; on Debian or Ubuntu: scripts/install-debian.sh (package nghttp2-client)"
# One thread; given up when nothing comes for a minute.
_H2LOAD = ("h2load", "-t1", "-N60", "-H", "content-type: application/grpc", "-H", "te: trailers")
_OPEN_CONNECTIONS, _OPEN_STREAMS = 4, 2000  # so many calls at a time on each, where none waits for another
_MAX_CONNECTIONS = 8  # more callers than that share them, as the callers of one service do


@dataclass(frozen=True, kw_only=True)
class Target:
    """One method of one server, and the message that every call sends it."""

    address: str
    method: str
    message: bytes


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one run of calls took. The times are the callers', from request to answer."""

    requests: int
    rps: float
    mean_us: float
    p50_us: float
    p99_us: float


def source() -> str:
    """Where the load comes from here: "h2load" or "python threads"."""
    return "h2load" if shutil.which("h2load") else "python threads"


def verify(target: Target, decode: Callable[[bytes], Floats], expected: Floats) -> None:
    """Make one call and compare its answer.

    Raises:
        grpc.RpcError: the call failed.
        AssertionError: the answer is not `expected` to 1e-4.
    """
    with grpc.insecure_channel(target.address) as channel:
        answer = channel.unary_unary(target.method)(target.message, timeout=60)
    np.testing.assert_allclose(decode(answer), expected, rtol=1e-4, atol=1e-5)


def warm_up(target: Target, callers: int, seconds: float = 0.25) -> float:
    """Send for at least so long; return the requests per second of the last run."""
    requests = 8 * callers
    while True:
        sample = send(target, callers, requests)
        if requests >= seconds * sample.rps:
            return sample.rps
        requests = max(2 * requests, int(1.2 * seconds * sample.rps))


def send(target: Target, callers: int, requests: int) -> Sample:
    """Have `callers` make `requests` calls in all, each its next one when the last was answered.

    Raises:
        RuntimeError: a call failed, by HTTP or by gRPC.
    """
    return (_h2load if source() == "h2load" else _threads)(target, callers, requests)


@dataclass(frozen=True, kw_only=True)
class Offered:
    """What became of calls sent at their moments: the seconds until the last had ended, and the median time of one."""

    seconds: float
    p50_us: float


def offer(target: Target, rate: float, seconds: float, timeout: float) -> Offered:
    """Send `rate` calls a second for so long, whether or not earlier ones were answered; each with so many seconds.

    Which of them succeeded the server knows: to h2load each that ends has.

    Raises:
        RuntimeError: h2load is missing, or a call did not end.
    """
    if source() != "h2load":
        raise RuntimeError(HOW_TO_GET_H2LOAD)
    calls = round(rate * seconds)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        per_connection = f"--rps={rate / _OPEN_CONNECTIONS:g}"
        sizes = (f"-n{calls}", f"-c{_OPEN_CONNECTIONS}", f"-m{_OPEN_STREAMS}")
        report = _run_h2load(
            target, *sizes, per_connection, f"--log-file={log}", "-H", f"grpc-timeout: {round(timeout * 1e3)}m"
        )
        times_us = np.loadtxt(log, np.int64, usecols=2, ndmin=1)
    if (ended := int(_find(r"(\d+) succeeded", report))) != calls:
        raise RuntimeError(f"{target.address}{target.method} ended {ended} of {calls} calls")
    took = float(_find(r"finished in ([\d.]+)s", report))
    return Offered(seconds=took, p50_us=float(np.median(times_us)))


def _connections(callers: int) -> int:
    return next(n for n in range(min(callers, _MAX_CONNECTIONS), 0, -1) if callers % n == 0)


def _h2load(target: Target, callers: int, requests: int) -> Sample:
    connections = _connections(callers)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        streams = callers // connections
        report = _run_h2load(target, f"-n{requests}", f"-c{connections}", f"-m{streams}", f"--log-file={log}")
        times_us = np.loadtxt(log, np.int64, usecols=2, ndmin=1)
    _check(report, target, connections, requests)
    return _sample(times_us, rps=float(_find(r"finished in [^,]+, ([\d.]+) req/s", report)))


def _run_h2load(target: Target, *options: str) -> str:
    with tempfile.NamedTemporaryFile() as body:
        body.write(struct.pack(">BI", 0, len(target.message)) + target.message)  # not compressed, so long
        body.flush()
        command = [*_H2LOAD, *options, "-d", body.name, f"http://{target.address}{target.method}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _check(report: str, target: Target, connections: int, requests: int) -> None:
    succeeded = int(_find(r"(\d+) succeeded", report))
    if succeeded != requests:
        raise RuntimeError(f"{target.address}{target.method} answered {succeeded} of {requests} requests")
    first, further = _header_bytes(target)
    wanted, seen = connections * first + (requests - connections) * further, _answered_header_bytes(report)
    if seen != wanted:
        raise RuntimeError(
            f"{target.address}{target.method}: {seen} bytes of headers for {requests} answers where successes have "
            f"{wanted}: some calls were answered with a gRPC error"
        )


@functools.cache
def _header_bytes(target: Target) -> tuple[int, int]:
    """Header bytes of a connection's first successful answer, and of each further one."""
    one, two = (_run_h2load(target, f"-n{n}", "-v") for n in (1, 2))
    if status := re.search(r"grpc-status: \d+", one + two):  # -v prints the opening headers; only an error has it there
        raise RuntimeError(f"{target.address}{target.method} answered with {status[0]}")
    first = _answered_header_bytes(one)
    return first, _answered_header_bytes(two) - first


def _answered_header_bytes(report: str) -> int:
    return int(_find(r"\((\d+)\) headers", report))


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"h2load did not print {pattern!r}:\n{text}")
    return found[1]


def _threads(target: Target, callers: int, requests: int) -> Sample:
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel
    channels = [grpc.insecure_channel(target.address, options) for _ in range(_connections(callers))]
    counts = [requests // callers + (i < requests % callers) for i in range(callers)]
    times_us: list[int] = []
    errors: list[Exception] = []
    threads = [
        threading.Thread(target=_caller, args=(channels[i % len(channels)], target, count, times_us, errors))
        for i, count in enumerate(counts)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    for channel in channels:
        channel.close()
    if errors:
        raise RuntimeError(f"{len(errors)} callers failed") from errors[0]
    return _sample(np.array(times_us), rps=requests / seconds)


def _caller(channel: grpc.Channel, target: Target, requests: int, times_us: list[int], errors: list[Exception]) -> None:
    call = channel.unary_unary(target.method)
    try:
        for _ in range(requests):
            began = time.perf_counter_ns()
            call(target.message)
            times_us.append((time.perf_counter_ns() - began) // 1000)
    except grpc.RpcError as error:
        errors.append(error)


def _sample(times_us: np.ndarray[tuple[int, ...], np.dtype[np.int64]], *, rps: float) -> Sample:
    p50, p99 = np.percentile(times_us, [50, 99])
    mean = float(times_us.mean())
    return Sample(requests=len(times_us), rps=rps, mean_us=mean, p50_us=float(p50), p99_us=float(p99))
