"""The server's load, sent with every 16th reply, so that clients send less to a replica that is slow.

Written from the wire facts of gRPC's proposals A51 and A58: trailing metadata "endpoint-load-metrics-bin" holds an
OrcaLoadReport (package xds.data.orca.v3), and the policy weighted_round_robin weighs each server by its requests per
second over its utilization. There is no API for it in grpcio; a server may send the metadata itself.
"""

import struct
import threading
from collections.abc import Callable, Mapping

from onnxserve_server.core import Clock

NAME = "endpoint-load-metrics-bin"
_INTERVAL = 0.2  # seconds; clients take new weights once a second
_EVERY = 16  # replies; metadata costs some 10 µs, and a client needs a report now and then
_DOUBLE = 1  # protobuf's wire type of 8 bytes
_CPU_UTILIZATION, _RPS, _APPLICATION_UTILIZATION = 1, 6, 9  # fields of OrcaLoadReport


class LoadReport:
    """Makes the trailing metadata of replies. Thread-safe.

    Args:
        clock: tells the time in seconds.
        cpu: the CPU time of the process so far, in seconds, over the CPUs that it is granted.
        busy: how long the executors of each version that serves have run so far, in seconds, over their number.
    """

    def __init__(
        self, clock: Clock, cpu: Callable[[], float], busy: Callable[[], Mapping[tuple[str, str], float]]
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._busy = busy
        self._lock = threading.Lock()
        self._replies = self._counted = 0
        self._last = clock()
        self._last_cpu = cpu()
        self._last_busy = busy()
        self._trailer: tuple[tuple[str, bytes], ...] = ()

    def trailer(self) -> tuple[tuple[str, bytes], ...]:
        """Count a reply, and return the metadata to send with it: for most replies none."""
        self._replies += 1  # may lose one to another thread now and then: it is a rate
        if self._replies % _EVERY:
            return ()
        if self._clock() - self._last >= _INTERVAL and self._lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._lock.release()
        return self._trailer

    def _refresh(self) -> None:
        now, used, ran = self._clock(), self._cpu(), self._busy()
        seconds = now - self._last
        cpu = (used - self._last_cpu) / seconds
        # A model that runs all the time cannot take more, however few CPUs it uses; clients use the larger of both.
        busy = max((_since(self._last_busy.get(model, 0.0), so_far) for model, so_far in ran.items()), default=0.0)
        busy /= seconds
        replies, self._counted = self._replies - self._counted, self._replies
        self._last, self._last_cpu, self._last_busy = now, used, ran
        fields = ((_CPU_UTILIZATION, cpu), (_RPS, replies / seconds), (_APPLICATION_UTILIZATION, max(cpu, busy)))
        report = b"".join(bytes([number << 3 | _DOUBLE]) + struct.pack("<d", value) for number, value in fields)
        self._trailer = ((NAME, report),)


def _since(before: float, now: float) -> float:
    """Return how much was added; a version that was loaded again counts from 0."""
    return now - before if now >= before else now
