"""Overload: what is still answered in time when callers ask for more than there is, whatever becomes of their calls.

The callers are open-loop: each call is sent at its moment, as those of many users are, and has half a second. A model
whose run takes some 12 ms is called without batching and with batches of up to four requests.
"""

import functools
import json
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np

from bench import ours
from bench.figures import Keys, median_ratio
from bench.process import ServerProcess
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
_CALLERS = 16  # at a time, to measure the capacity: enough to fill batches, none ever late
_STEPS = 8  # of about 1.5 ms
_WIDTH = 384


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the calls of one load.

    Attributes:
        offered: calls sent, a second.
        good: calls answered in time, a second.
        p99_refusal_ms: milliseconds after which 99 % of the others had their error.
    """

    offered: float
    good: float
    p99_refusal_ms: float


def measure(runs: int, seconds: float) -> Keys:
    """Measure the capacity and what is answered under each load, in turn, `runs` times over for about so long each.

    Returns `overload.{single,batched}.capacity` and `.good_<n>x`, answers a second at n times the capacity, medians;
    `.goodput_<n>x`, medians of the turns' ratios of the two, `overload.goodput_10x`, the lower one, and
    `.refusal_p99_ms`, how long at 10x an error took.
    """
    keys: Keys = {}
    with ours.serve("overload", repository=write()) as process:
        for model in _CONFIGS:
            print(f"overload: {model}", file=sys.stderr, flush=True)
            turns = [_turn(process, model, seconds) for _ in range(runs)]
            capacities = [capacity for capacity, _ in turns]
            keys[f"overload.{model}.capacity"] = statistics.median(capacities)
            for times in TIMES:
                good = [counts[times].good for _, counts in turns]
                keys[f"overload.{model}.good_{times}x"] = statistics.median(good)
                keys[f"overload.{model}.goodput_{times}x"] = median_ratio(good, capacities)
            largest = [counts[TIMES[-1]] for _, counts in turns]
            keys[f"overload.{model}.refusal_p99_ms"] = statistics.median(counts.p99_refusal_ms for counts in largest)
    keys["overload.goodput_10x"] = min(keys[f"overload.{model}.goodput_10x"] for model in _CONFIGS)
    return keys


def _turn(process: ServerProcess, model: str, seconds: float) -> tuple[float, dict[int, Counts]]:
    before = capacity(process.address, model, seconds)
    counts = {times: offer(process.address, model, times * before, seconds) for times in TIMES}
    return (before + capacity(process.address, model, seconds)) / 2, counts


def capacity(address: str, model: str, seconds: float) -> float:
    """Return the answers a second when some callers each make their next call after the last one was answered.

    Raises:
        grpc.RpcError: a call failed.
    """
    message, answered = _message(model), [0] * _CALLERS
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(ours.PREDICT)
        call(message, timeout=60)  # the connection is there
        began = time.perf_counter()

        def calls(caller: int) -> None:
            while time.perf_counter() - began < seconds:
                call(message, timeout=60)
                answered[caller] += 1

        threads = [threading.Thread(target=calls, args=(caller,)) for caller in range(_CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(answered) / (time.perf_counter() - began)


def offer(address: str, model: str, rate: float, seconds: float) -> Counts:
    """Send `rate` calls a second for so long, whether or not earlier ones were answered; each has half a second.

    Raises:
        RuntimeError: a call ended otherwise than with an answer, or with what an overloaded server may say.
    """
    message, total = _message(model), round(rate * seconds)
    good, refused, strange = [], [], []
    over = threading.Semaphore(0)
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(ours.PREDICT)
        method(message, timeout=60)

        def ended(call: grpc.Future, sent: float) -> None:
            took, code = time.perf_counter() - sent, call.code()
            if code == grpc.StatusCode.OK:
                good.append(took)
            elif code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED):
                refused.append(took)
            else:
                strange.append(code)
            over.release()

        began = time.perf_counter()
        for i in range(total):
            time.sleep(max(0.0, began + i / rate - time.perf_counter()))
            sent = time.perf_counter()
            method.future(message, timeout=_TIMEOUT).add_done_callback(functools.partial(ended, sent=sent))
        offered = total / (time.perf_counter() - began)
        for _ in range(total):
            over.acquire()
        took = time.perf_counter() - began
    if strange:
        raise RuntimeError(f"{len(strange)} calls of an overload ended with {strange[0]}")
    refusal = float(np.percentile(refused, 99)) * 1e3 if refused else 0.0
    return Counts(offered=offered, good=len(good) / took, p99_refusal_ms=refusal)


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


def _message(model: str) -> bytes:
    x = tensor.encode("x", np.ones((1, 1), np.float32))
    return pb.PredictRequest(model=model, inputs=[x]).SerializeToString()


if __name__ == "__main__":
    for key, value in measure(3, 6.0).items():
        print(f"{key} {value:.4g}")
