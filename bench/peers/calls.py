"""One client library calls the tiny model of its own server, and prints requests/s.

python -m bench.peers.calls onnxserve|tritonclient threads|tasks HOST:PORT CALLERS SECONDS: run by a Python that has the
client. Both are used as their guides show it: one client for all callers, an array in, an array out.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import numpy as np

from bench.callers import of_tasks, of_threads
from bench.models import MODELS, expected

_MODEL = MODELS["tiny"]
_WARM_UP_S = 0.5


@contextmanager
def _onnxserve_threads(address: str) -> Iterator[Callable[[], object]]:
    from onnxserve import Client

    x = _MODEL.one_row()
    with Client(address) as client:
        yield lambda: client.predict(_MODEL.name, {"x": x})["y"]


@asynccontextmanager
async def _onnxserve_tasks(address: str) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    from onnxserve import AsyncClient

    x = _MODEL.one_row()
    async with AsyncClient(address) as client:

        async def call() -> object:
            return (await client.predict(_MODEL.name, {"x": x}))["y"]

        yield call


@contextmanager
def _tritonclient_threads(address: str) -> Iterator[Callable[[], object]]:
    from tritonclient import grpc  # in Triton's environment

    x = _MODEL.one_row()

    def call() -> object:
        given = grpc.InferInput("x", x.shape, "FP32")
        given.set_data_from_numpy(x)
        return client.infer(_MODEL.name, [given]).as_numpy("y")

    with grpc.InferenceServerClient(address) as client:
        yield call


@asynccontextmanager
async def _tritonclient_tasks(address: str) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    from tritonclient.grpc import aio

    x = _MODEL.one_row()

    async def call() -> object:
        given = aio.InferInput("x", x.shape, "FP32")
        given.set_data_from_numpy(x)
        return (await client.infer(_MODEL.name, [given])).as_numpy("y")

    async with aio.InferenceServerClient(address) as client:
        yield call


def _with_threads(client: str, address: str, callers: int, seconds: float) -> float:
    with {"onnxserve": _onnxserve_threads, "tritonclient": _tritonclient_threads}[client](address) as call:
        _verify(call())
        of_threads(call, callers, _WARM_UP_S)
        return of_threads(call, callers, seconds)


async def _with_tasks(client: str, address: str, callers: int, seconds: float) -> float:
    async with {"onnxserve": _onnxserve_tasks, "tritonclient": _tritonclient_tasks}[client](address) as call:
        _verify(await call())
        await of_tasks(call, callers, _WARM_UP_S)
        return await of_tasks(call, callers, seconds)


def _verify(y: object) -> None:
    np.testing.assert_allclose(np.asarray(y), expected(_MODEL), rtol=1e-4, atol=1e-5)


def _main(client: str, kind: str, address: str, callers: str, seconds: str) -> None:
    if kind == "threads":
        print(_with_threads(client, address, int(callers), float(seconds)))
    else:
        print(asyncio.run(_with_tasks(client, address, int(callers), float(seconds))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
