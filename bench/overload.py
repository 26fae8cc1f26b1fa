"""Overload: what is still answered in time when callers ask for more than there is, whatever becomes of their calls.

The callers are open-loop: each call is sent at its moment, as those of many users are, and has half a second. A model
whose run takes some 12 ms is called without batching and with batches of up to four requests.
"""

import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import load, ours
from bench.figures import Keys, median_ratio
from bench.load import Target
from bench.ours import Counted
from onnxserve import tensor
from onnxserve.v1 import inference_service_pb2 as pb

if TYPE_CHECKING:
    from onnx import ModelProto

TIMES = (1, 2, 5, 10)
"""The loads, as multiples of the capacity."""

_TIMEOUT = 0.5  # seconds, of every call under overload
_REPOSITORY = Path("build/bench/overload")
_CONFIGS: Mapping[str, Mapping[str, object]] = {
    "single": {"batching": {"enabled": False}},
    "batched": {"batching": {"enabled": True, "max_rows": 4}},
}
_CALLERS = 16  # at a time, to measure the capacity: enough to fill batches
_STEPS = 8  # of about 1.5 ms
_WIDTH = 384


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the calls of one load.

    Attributes:
        good: calls answered in time, a second.
        p50_ms: milliseconds after which half of all calls had ended. Under ten times the capacity nine in ten are
            refused, so that it is a refusal's.
    """

    good: float
    p50_ms: float


def measure(runs: int, seconds: float) -> Keys:
    """Measure the capacity and what is answered under each load, in turn, `runs` times over for about so long each.

    Returns `overload.{single,batched}.capacity` and `.good_<n>x`, answers a second at n times the capacity, medians;
    `.goodput_<n>x`, medians of the turns' ratios of the two, `overload.goodput_10x`, the lower one, and
    `.refusal_p50_ms`, how long at 10x a refusal took.
    """
    keys: Keys = {}
    with ours.serve_counted("overload", repository=write()) as server:
        for model in _CONFIGS:
            print(f"overload: {model}", file=sys.stderr, flush=True)
            turns = [_turn(server, model, seconds) for _ in range(runs)]
            capacities = [capacity for capacity, _ in turns]
            keys[f"overload.{model}.capacity"] = statistics.median(capacities)
            for times in TIMES:
                good = [counts[times].good for _, counts in turns]
                keys[f"overload.{model}.good_{times}x"] = statistics.median(good)
                keys[f"overload.{model}.goodput_{times}x"] = median_ratio(good, capacities)
            keys[f"overload.{model}.refusal_p50_ms"] = statistics.median(
                counts[TIMES[-1]].p50_ms for _, counts in turns
            )
    keys["overload.goodput_10x"] = min(keys[f"overload.{model}.goodput_10x"] for model in _CONFIGS)
    return keys


def _turn(server: Counted, model: str, seconds: float) -> tuple[float, dict[int, Counts]]:
    target = _target(server, model)
    before = _capacity(target, seconds)
    counts = {times: _offer(server, target, model, times * before, seconds) for times in TIMES}
    return (before + _capacity(target, seconds)) / 2, counts


def _capacity(target: Target, seconds: float) -> float:
    """Return the answers a second when some callers each make their next call after the last one was answered."""
    pace = load.warm_up(target, _CALLERS)
    return load.send(target, _CALLERS, max(_CALLERS, int(pace * seconds))).rps


def _offer(server: Counted, target: Target, model: str, rate: float, seconds: float) -> Counts:
    """Offer so many calls a second; the server counts those that it has answered, which none is after its time."""

    def answered() -> float:
        return server.total("onnxserve.requests", model=model, **{"rpc.response.status_code": "OK"})

    before = answered()
    offered = load.offer(target, rate, seconds, _TIMEOUT)
    return Counts(good=(answered() - before) / offered.seconds, p50_ms=offered.p50_us / 1e3)


def write() -> Path:
    """Write the repository of the model, once for each way to run it; return where it is."""
    import onnx

    for name, config in _CONFIGS.items():
        folder = _REPOSITORY / name
        (folder / "1").mkdir(parents=True, exist_ok=True)
        onnx.save(_model(), folder / "1" / "model.onnx")
        (folder / "model.yaml").write_text(json.dumps(config))  # YAML, too
    return _REPOSITORY


def _model() -> "ModelProto":
    """y = x, float32 [batch, 1], after as many products of matrices as take some 12 ms, however many rows there are."""
    import onnx

    products = " ".join(f"m{i + 1} = MatMul(m{i}, w)" for i in range(_STEPS))
    built = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 17]> overload (float[batch, 1] x) => (float[batch, 1] y)'
        f"{{ least = ReduceMin <keepdims = 0> (x) none = Sub(least, least) m0 = Add(w, none) {products} "
        f"last = ReduceMax <keepdims = 0> (m{_STEPS}) zero = Sub(last, last) y = Add(x, zero) }}"
    )
    built.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(_WIDTH, dtype=np.float32), "w"))
    onnx.checker.check_model(built, full_check=True)
    return built


def _target(server: Counted, model: str) -> Target:
    message = pb.PredictRequest(model=model, inputs=[tensor.encode("x", np.ones((1, 1), np.float32))])
    return Target(address=server.process.address, method=ours.PREDICT, message=message.SerializeToString())


if __name__ == "__main__":
    for key, value in measure(3, 6.0).items():
        print(f"{key} {value:.4g}")
