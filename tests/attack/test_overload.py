"""Ten times as much is asked for as can be done: what is run is answered in time, and the others are refused.

All bounds are ratios of one run, so that they hold on a machine that is busy with something else.
"""

import asyncio
import threading
import time
from collections import Counter

import grpc
import numpy as np
import pytest

from onnxserve import AsyncClient, OnnxserveError
from support import zoo
from support.asking import Http

X = np.full((1, 1), 16, np.float32)  # steps, of about half a millisecond each
CALLERS = 12
TIMEOUT = 40  # runs: half a second, of a run of 12 ms
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
CONFIGS = {"single": "batching: {enabled: false}", "batched": "batching: {max_rows: 4}"}


@pytest.fixture
def server(serving, tmp_path):
    models = {name: zoo.slow() for name in CONFIGS}
    with serving(zoo.write(tmp_path / "models", models, CONFIGS), edge="lane", http_port=0) as running:
        yield running


def run_time(server, model):
    """Seconds of all runs so far, and of those for nobody."""
    metrics = Http(server.app.http_port).fetch_status()["metrics"]

    def total(name, key):
        points = metrics[name]["points"]
        return sum(point[key] for point in points if point["attributes"]["model"] == model)

    return total("onnxserve.batch.compute.duration", "sum"), total("onnxserve.compute.wasted", "value")


def call_without_pause(server, model, seconds):
    """Have callers make each their next call after the last one; return how many were answered."""
    end, answered = time.monotonic() + seconds, []

    def calls():
        while time.monotonic() < end:
            answered.append(server.send(model, x=X).result(timeout=600))

    threads = [threading.Thread(target=calls) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(answered)


def offer(server, model, rate, seconds, timeout):
    """Send so many calls a second, whatever becomes of them; return how they ended, by code."""

    async def end_of(client):
        try:
            await client.predict(model, {"x": X}, timeout=timeout)
        except OnnxserveError as error:
            return error
        return None

    async def offer_all():
        calls, began = [], time.monotonic()
        async with AsyncClient(server.address, retries=0) as client:
            for i in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + i / rate - time.monotonic()))
                calls.append(asyncio.create_task(end_of(client)))
            return await asyncio.gather(*calls)

    errors = asyncio.run(offer_all())
    ends = Counter(grpc.StatusCode.OK if error is None else error.code for error in errors)
    strange = [error for error in errors if error is not None and error.code not in EXPECTED]
    assert not strange, f"{len(strange)} calls such as {strange[0]}"
    return ends


@pytest.mark.parametrize("model", CONFIGS)
def test_what_is_run_is_answered_in_time_however_much_is_offered(server, attack, model):
    seconds = attack.size(1.5, 10.0)
    answered = call_without_pause(server, model, seconds)
    busy, wasted = run_time(server, model)
    assert wasted == 0
    runs = answered / (4 if model == "batched" else 1)
    ends = offer(server, model, 10 * answered / seconds, seconds, TIMEOUT * busy / runs)
    busy_then, wasted_then = run_time(server, model)
    attack.count("calls under overload", ends.total())
    attack.count("answered in time", ends[grpc.StatusCode.OK])
    assert ends[grpc.StatusCode.DEADLINE_EXCEEDED] > 0
    assert wasted_then <= 0.25 * (busy_then - busy)
    assert ends[grpc.StatusCode.OK] > 0
    assert server.client.predict(model, {"x": X}, timeout=600)["y"].size == 1
