"""How calls of grpc.aio end."""

import asyncio
from typing import Any

import grpc
import grpc.aio

from onnxserve._retrying import is_write_error

_MAX_LOOKS, _PAUSE = 100, 0.01  # seconds


def call_cancelled(error: BaseException) -> bool:
    """Whether grpc.aio raised an error because the call was cancelled, and not the task that waits for it."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and not (task is not None and task.cancelling())


async def own_error(call: Any, error: grpc.RpcError) -> grpc.RpcError:
    """Return the error with which a call of grpc.aio ended.

    If a write fails, grpc.aio (1.85.1) at first raises an error of its own, which hides why the call has ended: that
    comes a moment later.
    """
    for _ in range(_MAX_LOOKS):
        if not is_write_error(error):
            break
        await asyncio.sleep(_PAUSE)
        error = await rpc_error(call)
    return error


async def rpc_error(call: Any) -> grpc.RpcError:
    """Return the error of a call of grpc.aio that has ended."""
    metadata = await call.initial_metadata(), await call.trailing_metadata()
    return grpc.aio.AioRpcError(await call.code(), *metadata, details=await call.details())
