"""Request bodies, read within bounds: bytes and seconds of each, and bytes of all that are being received."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from onnxserve_server.errors import Cancelled, DeadlineExceeded, QueueFull
from onnxserve_server.web.errors import TooLarge

MAX_BODY = 8 << 20
"""Bytes of one request."""
TIMEOUT = 30.0
"""Seconds from the request's first byte to its response."""
MAX_BUFFERED = 8 * MAX_BODY
"""Bytes of all bodies that are being received."""


class Uploads:
    """Reads bodies. Slow senders keep nobody out: when memory is short, the body that began first is given up."""

    def __init__(self) -> None:
        self._buffered: dict[asyncio.Timeout, int] = {}  # bytes of each, in the order in which they began

    async def read(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            TooLarge: it has more than MAX_BODY bytes.
            QueueFull: it came so slowly that others needed its memory.
            DeadlineExceeded: it had not arrived after TIMEOUT.
            Cancelled: the caller left.
        """
        body, nbytes = bytearray(), 0
        limit = asyncio.timeout(TIMEOUT)
        self._buffered[limit] = 0
        try:
            async with limit:
                async for chunk in request.stream():
                    body += chunk
                    nbytes += len(chunk)
                    if nbytes > MAX_BODY:  # read on: a browser that cannot send everything does not read the answer
                        body.clear()
                    if limit in self._buffered:
                        self._buffered[limit] = len(body)
                        self._make_room()
        except TimeoutError as error:
            if limit not in self._buffered:
                raise QueueFull(
                    "the request body arrived too slowly, and others needed its memory; send it again", 1.0
                ) from error
            raise DeadlineExceeded(f"the request body did not arrive within {TIMEOUT:.0f} s") from error
        except ClientDisconnect as error:
            raise Cancelled("the caller left") from error
        finally:
            self._buffered.pop(limit, None)
        if nbytes > MAX_BODY:
            raise TooLarge(f"the request has {nbytes} bytes; at most {MAX_BODY} are accepted by HTTP: use gRPC")
        return bytes(body)

    def _make_room(self) -> None:
        while sum(self._buffered.values()) > MAX_BUFFERED:
            first = next(iter(self._buffered))
            del self._buffered[first]
            first.reschedule(asyncio.get_running_loop().time())
