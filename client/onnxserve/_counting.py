"""A count of the program's requests, where the program uses OpenTelemetry: `pip install 'onnxserve[otel]'`.

A request is counted when it is made, whether or not it succeeds: while no server runs, only the caller can count it.

The package is optional. The counter is observable, so that the SDK reads it when it exports: adding to one of the SDK's
other counters takes 6 to 11 µs, counting here less than one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from onnxserve._channel import INFERENCE
from onnxserve._forking import in_children

try:
    from opentelemetry import metrics
except ImportError:  # then nothing is counted
    metrics = None  # type: ignore[assignment]

_MAX_KINDS = 1000  # the program may pass on names that others make up

_lock = threading.Lock()
_counts: dict[tuple[str, str], int] = {}  # by method and model


def _reset() -> None:
    """Replace the lock, which another thread may have held, in a child process."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


in_children(_reset)


def count(method: str, model: str) -> None:
    """Count a request of the method "Predict" or "Stream". Beyond a thousand models, further ones count as `_OTHER`."""
    if metrics is None or not isinstance(model, str):  # which is refused at once
        return
    kind = method, model
    with _lock:
        if not _counts:  # not before: a provider that the environment names is made for who asks first
            metrics.get_meter("onnxserve").create_observable_counter(
                "onnxserve.client.requests", [_observe], "{request}", "requests that the program made, joined ones too"
            )
        if kind not in _counts and len(_counts) >= _MAX_KINDS:
            kind = method, "_OTHER"
        _counts[kind] = _counts.get(kind, 0) + 1


def _observe(_: metrics.CallbackOptions) -> Sequence[metrics.Observation]:
    with _lock:
        counts = [*_counts.items()]
    return [
        metrics.Observation(number, {"onnxserve.model": model, "rpc.method": f"{INFERENCE}/{method}"})
        for (method, model), number in counts
    ]
