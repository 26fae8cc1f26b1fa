"""The connections of a gRPC server, as the process sees them: their number by caller, and the end of those that harm.

gRPC's core bounds their number in all: a further one is closed at once, so that idle ones would keep everybody out. It
knows no limit by caller, and none on calls that are opened and reset at once. What the core holds as descriptors this
module finds in /proc, and shuts down: the core then sees a caller that has left.
"""

import contextlib
import logging
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from time import monotonic
from typing import NamedTuple
from urllib.parse import unquote

logger = logging.getLogger(__name__)

MAX_RESETS = 3000
"""Calls that one connection may open and reset before their message came, in one second."""

_DESCRIPTORS = Path("/proc/self/fd")
_INTERVAL = 1.0  # seconds between two looks
_FULL = 0.9  # of the connections that there may be: from here on those that have been idle longest make room
_RESET_WINDOW = 1.0  # seconds
_LAST_RECEIVED = struct.Struct("@52xI")  # in struct tcp_info of Linux: ms since data came


class Connection(NamedTuple):
    """One connection: its descriptor, and its caller.

    Attributes:
        descriptor: the core's; it may be another's by the time it is used.
        address: of the caller.
        port: of the caller.
        idle: milliseconds since data came.
    """

    descriptor: int
    address: str
    port: int
    idle: int


class Connections:
    """Bounds the connections to a port, from start() to stop().

    Args:
        limit: in all, as the core has it.
        limit_by_peer: of one address; 0: none.
    """

    def __init__(self, limit: int, limit_by_peer: int) -> None:
        self._limit = limit
        self._limit_by_peer = limit_by_peer
        self._port = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onnxserve-connections", daemon=True)
        self._resets: dict[str, int] = {}  # of each caller, in this window

    def start(self, port: int) -> None:
        """Watch the connections to a port."""
        self._port = port
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def note_reset(self, peer: str) -> None:
        """Note that a call was reset before its message came; close a connection that does little else.

        Args:
            peer: the caller as the core names it, such as "ipv4:127.0.0.1:4242".
        """
        self._resets[peer] = count = self._resets.get(peer, 0) + 1
        if count >= MAX_RESETS:
            self._resets.pop(peer, None)
            if self._close_of(peer):
                logger.warning(
                    "%s: its connection is closed: it reset %d calls within %.0f s before their messages came",
                    _address_in(peer),
                    MAX_RESETS,
                    _RESET_WINDOW,
                )

    def close_unread(self, peer: str) -> None:
        """Close the connection of a caller, as the core names it, that does not read its answers."""
        if self._close_of(peer):
            logger.warning(
                "%s: its connection is closed: answers on it were not read, and others needed their memory; "
                "--all-unsent-bytes bounds it",
                _address_in(peer),
            )

    def look(self) -> None:
        """Close the connections above the limits, those first that have been idle longest."""
        connections = sorted(_connections(self._port), key=lambda each: each.idle)
        in_all = max(1, int(self._limit * _FULL))
        of_peers: Counter[str] = Counter()
        for i, connection in enumerate(connections):
            of_peers[connection.address] += 1
            if i >= in_all or 0 < self._limit_by_peer < of_peers[connection.address]:
                _close(connection)

    def _run(self) -> None:
        bound = min(int(self._limit * _FULL), self._limit_by_peer or self._limit)
        window_ends = 0.0
        while not self._stopped.wait(_INTERVAL):
            if monotonic() > window_ends:
                self._resets = {}
                window_ends = monotonic() + _RESET_WINDOW
            if sum(1 for _ in _DESCRIPTORS.iterdir()) > bound:  # cheaper than a look at each
                self.look()

    def _close_of(self, peer: str) -> bool:
        """Close the connection of a caller; return whether there was one."""
        found = [each for each in _connections(self._port) if _caller(each) == _address_in(peer)]
        for connection in found:
            _close(connection)
        return bool(found)


def _address_in(peer: str) -> str:
    return unquote(peer).partition(":")[2]


def _connections(port: int) -> Iterator[Connection]:
    """Give the connections to a port of this process."""
    for entry in list(_DESCRIPTORS.iterdir()):
        with contextlib.suppress(OSError), _duplicate(int(entry.name)) as handle:
            if handle.family in (socket.AF_INET, socket.AF_INET6) and handle.getsockname()[1] == port:
                peer = handle.getpeername()
                (idle,) = _LAST_RECEIVED.unpack(
                    handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_RECEIVED.size)
                )
                yield Connection(int(entry.name), peer[0], peer[1], idle)


def _close(connection: Connection) -> None:
    """Shut a connection down; the core sees that the caller has left."""
    with contextlib.suppress(OSError), _duplicate(connection.descriptor) as handle:  # it may have, meanwhile
        if handle.getpeername()[:2] == (connection.address, connection.port):
            handle.shutdown(socket.SHUT_RDWR)


def _duplicate(descriptor: int) -> socket.socket:
    """Return a socket of our own for a descriptor, which stays open when this one is closed."""
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise


def _caller(connection: Connection) -> str:
    """Return address and port as the core writes them: those of IPv4 where an address of IPv6 stands for one."""
    address = ip_address(connection.address.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return f"[{address}]:{connection.port}"
    return f"{getattr(address, 'ipv4_mapped', None) or address}:{connection.port}"
