"""Python callers of anything: threads, or tasks of one event loop. It needs nothing but Python."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable


def of_threads(call: Callable[[], object], callers: int, seconds: float) -> float:
    """Requests/s of so many threads, each of which makes its next call when the last one was answered.

    Raises:
        RuntimeError: a call failed; caused by its error.
    """
    counts = [0] * callers
    errors: list[Exception] = []
    end = time.perf_counter() + seconds

    def calls(caller: int) -> None:
        try:
            while time.perf_counter() < end:
                call()
                counts[caller] += 1
        except Exception as error:
            errors.append(error)

    began = time.perf_counter()
    threads = [threading.Thread(target=calls, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError(f"{len(errors)} of {callers} callers failed") from errors[0]
    return sum(counts) / (time.perf_counter() - began)


async def of_tasks(call: Callable[[], Awaitable[object]], callers: int, seconds: float) -> float:
    """The same of so many tasks of this event loop; a call's own error is raised."""
    count = 0
    end = time.perf_counter() + seconds

    async def calls() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await call()
            count += 1

    began = time.perf_counter()
    await asyncio.gather(*(calls() for _ in range(callers)))
    return count / (time.perf_counter() - began)
