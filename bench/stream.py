"""Many requests on one call beside one call for each: the tiny model by Stream and by Predict, in turn on one server.

As many requests are in flight both ways. Unary, 64 callers share 8 connections, and each sends its next request when it
has the answer to the last. On as many connections there is one stream each, and the server, by its setting
stream_requests, has at most 8 requests of a stream in flight: it reads the next one when it has sent an answer. What a
stream's caller has sent beyond that waits unread, which is the difference that a stream makes.
"""

import statistics
import sys
from collections.abc import Sequence

import numpy as np

from bench import models, ours, stream_load
from bench.cells import Figures, contender, measure_one
from bench.figures import Keys, median_ratio
from bench.models import MODELS, Floats
from bench.stream_load import STREAMS, Rate, Traffic
from onnxserve import tensor
from onnxserve.v1 import inference_service_pb2 as pb

IN_FLIGHT = 64
MODEL = MODELS["tiny"]


def measure(runs: int, seconds: float) -> Keys:
    """Call the tiny model both ways, `runs` times over for about so long.

    Returns `stream.tiny.{rps,cpu_us}`, `stream.tiny.unary.{rps,cpu_us}`, medians, and of the runs' ratios the median:
    `stream.tiny.vs_unary_rps` and `stream.tiny.cpu_vs_unary`.
    """
    print("stream", file=sys.stderr, flush=True)
    with ours.serve("stream", "--stream-requests", str(IN_FLIGHT // STREAMS)) as process:
        unary = contender(process, [MODEL], ours.target, ours.decode, models.expected)
        count = stream_load.prepare(process, TRAFFIC, seconds)
        both = [
            (stream_load.send(process, TRAFFIC, count), measure_one(unary, MODEL.name, IN_FLIGHT, seconds))
            for _ in range(runs)
        ]
    return _keys(both)


def _requests(count: int) -> Sequence[pb.StreamRequest]:
    request = pb.StreamRequest(
        predict=pb.PredictRequest(model=MODEL.name, inputs=[tensor.encode("x", MODEL.one_row())])
    )
    return [request] * count


def _expected(count: int) -> Floats:
    return np.repeat(models.expected(MODEL), count, axis=0)


TRAFFIC = Traffic(requests=_requests, expected=_expected)


def _keys(both: Sequence[tuple[Rate, Figures]]) -> Keys:
    keys: Keys = {}
    for figure, ratio in (("rps", "vs_unary_rps"), ("cpu_us", "cpu_vs_unary")):
        streamed, unary = ([getattr(measured, figure) for measured in way] for way in zip(*both, strict=True))
        keys[f"stream.tiny.{figure}"] = statistics.median(streamed)
        keys[f"stream.tiny.unary.{figure}"] = statistics.median(unary)
        keys[f"stream.tiny.{ratio}"] = median_ratio(streamed, unary)
    return keys
