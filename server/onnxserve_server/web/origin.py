"""Which callers are allowed: the page of this server, and programs; not pages of other sites.

The port knows no users, and listens on loopback by default. A browser on that machine can reach it, so any page that
somebody opens there could try to have models run, or to read what is served. Three headers prevent that:

    Content-Type    a browser asks before it lets a page of another site send application/json; this server never agrees
    Sec-Fetch-Site  browsers say whose page sends the request, if they trust the address (https, localhost)
    Origin, Host    at other addresses they name the page's site, which must be the host of the request. Over loopback
                    the host must be a name of loopback, too: else a site could point its own name at this machine

Programs other than browsers send neither Sec-Fetch-Site nor Origin. The network decides which of them get here.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from onnxserve_server.web.errors import NotAllowed, NotJson


def check_reader(request: Request) -> None:
    """Raise NotAllowed if a page of another site may be about to read the answer."""
    site = request.headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none"):
        raise NotAllowed(f"requests from pages of other sites are not allowed (Sec-Fetch-Site: {site})")
    host = _name(request.headers.get("host", ""))
    if _over_loopback(request) and not (_is_address(host) or host == "localhost" or host.endswith(".localhost")):
        raise NotAllowed(f"host {host!r} does not name this machine's loopback interface; use localhost")


def check_sender(request: Request) -> None:
    """Raise NotAllowed or NotJson if a page of another site may have sent the request."""
    check_reader(request)
    _check_origin(request.headers)
    if (media_type := _media_type(request.headers)) != "application/json":
        raise NotJson(f"the Content-Type header must be application/json, but is {media_type or 'missing'}")


def _check_origin(headers: Headers) -> None:
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":  # a proxy may have changed the Host
        return
    if origin.partition("://")[2] != headers.get("host"):
        raise NotAllowed(f"requests from pages of {origin} are not allowed")


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _name(host: str) -> str:
    """Return a Host header without its port and without the brackets of an IPv6 address."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        raise NotAllowed(f"the Host header {host!r} is not a valid host name") from None


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
