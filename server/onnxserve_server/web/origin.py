"""Who may ask: the page that this server gave out, and programs; no page of another site.

The port knows no users, and listens on loopback by default. A browser on that machine can reach it, so any page that
somebody opens there could try to have models run, or to read what is served. Three things keep it from that:

    Content-Type    a page of another site must ask before it sends application/json, and nobody here grants it
    Sec-Fetch-Site  browsers tell whose page asks, where the address is one they trust (https, localhost)
    Origin, Host    elsewhere they tell the page's site, which must be the one that it asks. Over loopback the name
                    asked must be one of loopback, too: else a site could point its own name here, and be its origin

Programs that are no browsers send neither Sec-Fetch-Site nor Origin. What they may do is for the network to say.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from onnxserve_server.web.errors import NotAllowed, NotJson


def check_reader(request: Request) -> None:
    """Raise NotAllowed where a page of another site may be the one that reads the answer."""
    site = request.headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none"):
        raise NotAllowed(f"a page of another site must not ask for this (Sec-Fetch-Site: {site})")
    host = _name(request.headers.get("host", ""))
    if _over_loopback(request) and not (_is_address(host) or host == "localhost" or host.endswith(".localhost")):
        raise NotAllowed(f"{host!r} is no name of this machine's loopback interface; ask for localhost")


def check_sender(request: Request) -> None:
    """Raise NotAllowed or NotJson where a page of another site may have sent the request."""
    check_reader(request)
    _check_origin(request.headers)
    if (told := _media_type(request.headers)) != "application/json":
        raise NotJson(f"the header Content-Type must be application/json, and is {told or 'missing'}")


def _check_origin(headers: Headers) -> None:
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":  # a proxy may have changed the Host
        return
    if origin.partition("://")[2] != headers.get("host"):
        raise NotAllowed(f"a page of {origin} must not ask for this")


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _name(host: str) -> str:
    """Return a Host header without its port and without the brackets of an IPv6 address."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        raise NotAllowed(f"{host!r} is no host") from None


def _over_loopback(request: Request) -> bool:
    """Whether the connection came in by the loopback interface."""
    server = request.scope.get("server")
    if server is None or not _is_address(server[0]):
        return False
    address = ip_address(server[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
