"""Python callers: the SDK itself, calls that travel together beside calls that each go alone.

The callers take turns in this process, so that both ways share its noise; it is they who are busy here, not the server.
"""

import asyncio
import statistics
import sys
from functools import partial

import numpy as np

from bench.callers import of_tasks, of_threads
from bench.figures import Keys
from bench.models import MODELS, expected
from onnxserve import AsyncClient, Client, Prediction

CALLERS = 64
_WARM_UP_S = 0.3
MODEL = MODELS["tiny"]
_INPUTS = {"x": MODEL.one_row()}


def measure(address: str, runs: int, seconds: float) -> Keys:
    """Call the tiny model with 64 threads, then 64 tasks, `runs` times over for about so long.

    Returns `sdk.{threads,tasks}.{single,coalesced}.rps`, medians, and of the runs' ratios the median:
    `sdk.coalesced_vs_single_rps` for threads, `sdk.tasks.coalesced_vs_single_rps` for tasks.
    """
    print("sdk", file=sys.stderr, flush=True)
    by_threads = _with_threads(address, runs, seconds)
    by_tasks = asyncio.run(_with_tasks(address, runs, seconds))
    return (
        _rates("sdk.threads", by_threads)
        | _rates("sdk.tasks", by_tasks)
        | {"sdk.coalesced_vs_single_rps": _ratio(by_threads), "sdk.tasks.coalesced_vs_single_rps": _ratio(by_tasks)}
    )


_Runs = list[tuple[float, float]]  # requests/s of each run: single, coalesced


def _with_threads(address: str, runs: int, seconds: float) -> _Runs:
    with Client(address, coalesce=False) as single, Client(address) as coalesced:
        alone = partial(single.predict, MODEL.name, _INPUTS)
        together = partial(coalesced.predict, MODEL.name, _INPUTS)
        for call in (alone, together):
            _verify(call())
            of_threads(call, CALLERS, _WARM_UP_S)
        return [(of_threads(alone, CALLERS, seconds), of_threads(together, CALLERS, seconds)) for _ in range(runs)]


async def _with_tasks(address: str, runs: int, seconds: float) -> _Runs:
    async with AsyncClient(address, coalesce=False) as single, AsyncClient(address) as coalesced:
        alone = partial(single.predict, MODEL.name, _INPUTS)
        together = partial(coalesced.predict, MODEL.name, _INPUTS)
        for call in (alone, together):
            _verify(await call())
            await of_tasks(call, CALLERS, _WARM_UP_S)
        return [
            (await of_tasks(alone, CALLERS, seconds), await of_tasks(together, CALLERS, seconds)) for _ in range(runs)
        ]


def _verify(prediction: Prediction) -> None:
    np.testing.assert_allclose(np.asarray(prediction["y"], np.float32), expected(MODEL), rtol=1e-4, atol=1e-5)


def _rates(prefix: str, runs: _Runs) -> Keys:
    single, coalesced = (statistics.median(rates) for rates in zip(*runs, strict=True))
    return {f"{prefix}.single.rps": single, f"{prefix}.coalesced.rps": coalesced}


def _ratio(runs: _Runs) -> float:
    return statistics.median(coalesced / single for single, coalesced in runs)
