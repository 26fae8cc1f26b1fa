"""Where a server listens: at host and port, or at the path of a Unix socket. Found out before minutes of loading."""

import contextlib
import os
import socket
import stat
from pathlib import Path

from onnxserve_server.errors import ConfigurationError

_UNIX = "unix:"
_BACKLOG = 64


def address_of(host: str, port: int) -> str:
    """Return host and port as clients write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_port(host: str, port: int) -> None:
    """Find out whether a server could listen there.

    Raises:
        ConfigurationError: it could not.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"{host}:{port}: cannot listen there: {error.strerror or error}; choose another --host or --port"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens for HTTP; port 0 picks a free one.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        everywhere = address[0] == "::" and socket.has_dualstack_ipv6()  # IPv4 too, as on the port of gRPC
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=everywhere)
    except OSError as error:
        # create_server() puts the address into its text once more; the resolver's errors have numbers of their own.
        cause = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ConfigurationError(
            f"{host}:{port}: cannot listen for HTTP: {cause}; choose another --http-port, or -1 for none"
        ) from error
    # Its connections have it from here. Without it each answer but the first of a connection waits, 40 ms, for the
    # caller's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def check_path(address: str) -> None:
    """Find out whether a server could listen at "unix:/path": no other one does, and no file is in the way.

    Raises:
        ConfigurationError: it could not.
    """
    path = Path(address.removeprefix(_UNIX))
    fault = None
    if not path.parent.is_dir():
        fault = f"{path.parent} is not a directory"
    elif path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        fault = f"{path} is not a socket; remove it, or choose another path"
    elif _is_served(path):
        fault = "another server does; stop it, or choose another path"
    if fault is not None:
        raise ConfigurationError(f"{address}: cannot listen there: {fault}")


def listen_at(address: str) -> socket.socket:
    """Return a socket that listens at "unix:/path", in place of one that a server left behind.

    Raises:
        ConfigurationError: that cannot be.
    """
    check_path(address)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove(address)
        listener.bind(address.removeprefix(_UNIX))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"{address}: cannot listen there: {error.strerror or error}") from error
    return listener


def remove(address: str) -> None:
    """Remove the socket at "unix:/path"."""
    with contextlib.suppress(OSError):
        Path(address.removeprefix(_UNIX)).unlink()


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
