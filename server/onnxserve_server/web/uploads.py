"""Bodies of requests, read within bounds: bytes and seconds of each, and bytes of all that are on their way."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from onnxserve_server.errors import Cancelled, DeadlineExceeded, QueueFull
from onnxserve_server.web.errors import TooLarge

MAX_BODY = 8 << 20
"""Bytes of one request."""
TIMEOUT = 30.0
"""Seconds from the request's first byte to its answer."""
MOST_UNREAD = 8 * MAX_BODY
"""Bytes of all bodies that are on their way."""


class Uploads:
    """Reads bodies. Whoever sends slowly keeps nobody out: where room is short, the body that began first makes it."""

    def __init__(self) -> None:
        self._held: dict[asyncio.Timeout, int] = {}  # bytes of each, in the order in which they began

    async def read(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            TooLarge: it has more than MAX_BODY bytes.
            QueueFull: it came so slowly that others needed its room.
            DeadlineExceeded: it was not there after TIMEOUT.
            Cancelled: the caller left.
        """
        body, nbytes = bytearray(), 0
        limit = asyncio.timeout(TIMEOUT)
        self._held[limit] = 0
        try:
            async with limit:
                async for chunk in request.stream():
                    body += chunk
                    nbytes += len(chunk)
                    if nbytes > MAX_BODY:  # read on: a browser that cannot send everything does not read the answer
                        body.clear()
                    if limit in self._held:
                        self._held[limit] = len(body)
                        self._make_room()
        except TimeoutError as error:
            if limit not in self._held:
                raise QueueFull(
                    "the request came too slowly, and others needed its room; send it again", 1.0
                ) from error
            raise DeadlineExceeded(f"the request did not arrive within {TIMEOUT:.0f} s") from error
        except ClientDisconnect as error:
            raise Cancelled("the caller left") from error
        finally:
            self._held.pop(limit, None)
        if nbytes > MAX_BODY:
            raise TooLarge(f"the request has {nbytes} bytes, and at most {MAX_BODY} are taken here; call by gRPC")
        return bytes(body)

    def _make_room(self) -> None:
        while sum(self._held.values()) > MOST_UNREAD:
            first = next(iter(self._held))
            del self._held[first]
            first.reschedule(asyncio.get_running_loop().time())
