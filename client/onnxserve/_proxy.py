"""The HTTP proxy that gRPC connects through, because an environment variable names it: errors of connections say so."""

import ipaddress
import os
import re
from urllib.parse import urlsplit

# In gRPC's order; the first one that is set counts.
_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCLUSIONS = ("no_grpc_proxy", "no_proxy")
_DIRECT = ("unix:", "unix-abstract:", "vsock:")  # schemes that gRPC uses no proxy for


def proxy_hint(target: str) -> str:
    """Return what an error of a connection to a target says of the proxy in the way; "" if there is none."""
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    host = _host(target)
    if variable is None or target.startswith(_DIRECT) or _is_excluded(host):
        return ""
    proxy = urlsplit(os.environ[variable]).netloc.rpartition("@")[2] or os.environ[variable].rpartition("@")[2]
    return (
        f"; the environment variable {variable} has gRPC connect through the proxy {proxy}: if {host} is to be reached "
        f"without it, add {host} to the environment variable no_proxy"
    )


def _host(target: str) -> str:
    first = re.sub(r"^(dns|ipv4|ipv6):(//[^/]*/)?", "", target).partition(",")[0]
    return re.sub(r":\d+$", "", first).strip("[]") or target


def _is_excluded(host: str) -> bool:
    listed = next((os.environ[name] for name in _EXCLUSIONS if os.environ.get(name)), "")
    entries = [entry for each in listed.split(",") if (entry := each.strip().lower())]
    return any(host.lower().endswith(entry) or _is_within(host, entry) for entry in entries)


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
