"""How calls of grpc.aio end."""

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio

from onnxserve._retrying import is_write_error

_MAX_WAIT = 1.0  # seconds; the call has ended, and why is on its way


def call_cancelled(error: BaseException) -> bool:
    """Whether grpc.aio raised an error because the call was cancelled, and not the task that waits for it."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and not (task is not None and task.cancelling())


class Ending:
    """How a call with many messages ends.

    If a write fails because the call has ended, grpc.aio (1.85.1) gives the call an error of its own: before the one
    that it has ended with, or in place of it.
    """

    def __init__(self, call: Any) -> None:
        """Follow a call that has just been made."""
        self._known = asyncio.Event()
        self._error: grpc.RpcError | None = None
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        try:
            rpc_error(call).send(None)  # nothing in it waits, now that the call has ended
        except StopIteration as ended:
            error = ended.value
            if error.code() is not grpc.StatusCode.OK and not is_write_error(error):
                self._error = error
                self._known.set()

    async def error(self, raised: grpc.RpcError) -> grpc.RpcError:
        """Return the error of the call for one that it raised."""
        if not is_write_error(raised):
            return raised
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._known.wait(), _MAX_WAIT)
        return self._error or raised


async def rpc_error(call: Any) -> grpc.RpcError:
    """Return the error of a call that has ended."""
    metadata = await call.initial_metadata(), await call.trailing_metadata()
    return grpc.aio.AioRpcError(await call.code(), *metadata, details=await call.details())
